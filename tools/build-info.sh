#!/bin/sh
# Writes a header that says what the program was built from; leaves it alone when nothing changed, so
# that nothing is compiled again.   build-info.sh HEADER
# From the environment: CC, CFLAGS, NVCC, NVCCFLAGS. Works without git, and in a tree without commits.
set -eu
export LC_ALL=C
header=$1
sources='Makefile common corpus difftest gpu ref tools'

# Every difference from the commit: changes of known files, then the names and sums of new ones.
differences() {
    # shellcheck disable=SC2086
    git diff HEAD --no-color --no-ext-diff -- $sources 2>/dev/null || true
    # shellcheck disable=SC2086
    git ls-files --others --exclude-standard -z -- $sources | xargs -0 -r sha256sum --
}

# Without a commit to compare with: all sources.
everything() {
    # shellcheck disable=SC2086
    find $sources -type f -print0 2>/dev/null | sort -z | xargs -0 -r sha256sum --
}

sha() { sha256sum | cut -d' ' -f1; }
first_line() { "$@" 2>/dev/null | head -n 1; }
quoted() { printf '%s' "$1" | tr -d '\n' | sed 's/[\\"]/\\&/g'; }

# An enclosing repository of something else is not ours.
commit=unknown
if [ "$(git rev-parse --show-toplevel 2>/dev/null)" = "$(pwd -P)" ]; then
    commit=$(git rev-parse --verify -q HEAD) || commit=unknown
fi
branch=
time=0
if [ "$commit" = unknown ]; then
    diff=$(everything | sha)
else
    branch=$(git rev-parse --abbrev-ref HEAD)
    time=$(git log -1 --format=%ct)
    changes=$(differences)
    diff=
    [ -z "$changes" ] || diff=$(printf '%s' "$changes" | sha)
fi
nvcc=
if [ -n "${NVCC:-}" ]; then nvcc=$("$NVCC" --version 2>/dev/null | tail -n 1) || true; fi
blas=$(pkg-config --modversion openblas 2>/dev/null) || blas=

new=$(cat <<END
/* Made by tools/build-info.sh. */
#define BUILD_COMMIT      "$commit"
#define BUILD_BRANCH      "$(quoted "$branch")"
#define BUILD_COMMIT_TIME $time
#define BUILD_DIRTY       $([ -n "$diff" ] && echo 1 || echo 0)
#define BUILD_DIFF_SHA    "$diff"
#define BUILD_CC          "$(quoted "$(first_line ${CC:-cc} --version)")"
#define BUILD_CFLAGS      "$(quoted "${CFLAGS:-}")"
#define BUILD_NVCC        "$(quoted "$nvcc")"
#define BUILD_NVCCFLAGS   "$(quoted "${NVCCFLAGS:-}")"
#define BUILD_OPENBLAS    "$(quoted "$blas")"
END
)
old=$(cat "$header" 2>/dev/null || true)
[ "$new" = "$old" ] || printf '%s\n' "$new" >"$header"
