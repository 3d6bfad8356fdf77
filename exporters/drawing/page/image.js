// SPDX-License-Identifier: Apache-2.0
// The image of a snapshot, which the page has within it.

takeImage(JSON.parse(document.getElementById("image").textContent));
