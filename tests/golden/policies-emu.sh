#!/bin/sh
# The tiny model's policies on the host SIMT layer.
KVDIFF_SIDES=$BUILD/sides exec "$BUILD/tests/golden/policies" emu
