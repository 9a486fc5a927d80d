#!/bin/sh
# Forward pass and evaluation of the golf family in double.
exec "$BUILD/tests/golden/golf" ref64
