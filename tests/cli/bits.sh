#!/bin/sh
# Six of the 36 builds of `make bits`.
exec tests/bits/matrix ci
