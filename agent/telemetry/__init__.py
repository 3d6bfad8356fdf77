# SPDX-License-Identifier: Apache-2.0
"""Live events in the words of other programs: the Elastic Common Schema, and OpenTelemetry."""
