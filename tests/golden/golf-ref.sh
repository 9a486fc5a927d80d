#!/bin/sh
# Forward pass and evaluation of the golf family on the reference.
exec "$BUILD/tests/golden/golf" ref
