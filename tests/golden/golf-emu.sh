#!/bin/sh
# Forward pass and evaluation of the golf family on the host SIMT layer.
KVDIFF_SIDES=$BUILD/sides exec "$BUILD/tests/golden/golf" emu
