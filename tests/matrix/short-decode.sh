#!/bin/sh
# The pairs of short.sh whose turn is a step of 1 or 5 tokens.
STEPS='1 5' exec tests/matrix/short.sh "$@"
