#!/bin/sh
# Forward pass of the golf family on OpenBLAS; its other policies follow another side's decisions (tests/unit/test_blas.c).
KVDIFF_SIDES=$BUILD/sides exec "$BUILD/tests/golden/golf" blas
