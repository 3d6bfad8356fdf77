# SPDX-License-Identifier: Apache-2.0
"""What every format says of a snapshot: fields, their bounds, and their words."""
