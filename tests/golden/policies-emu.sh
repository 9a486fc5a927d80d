#!/bin/sh
# The tiny model's policies on the host SIMT layer.
exec "$BUILD/tests/golden/policies" emu
