#!/bin/sh
# The tiny model's policies on the double-precision reference.
exec "$BUILD/tests/golden/policies" ref64
