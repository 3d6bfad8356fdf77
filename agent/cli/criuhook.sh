#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# CRIU takes its action script as the name of one program and passes no arguments. This file is installed on PATH under
# the name "ckptree hook criu", so that criu dump --action-script 'ckptree hook criu' finds a program of that name.
exec "${0%/*}/ckptree-hook-criu" "$@"
