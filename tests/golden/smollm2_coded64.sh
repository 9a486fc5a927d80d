#!/bin/sh
# Coded storages of the double-precision reference on SmolLM2: token by token, which fp32 cannot be.
exec "$BUILD/tests/golden/smollm2_policies" ref64 kivi _tie
