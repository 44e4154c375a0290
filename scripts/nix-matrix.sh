#!/usr/bin/env bash
# The end-to-end tests beside each Nix that Debian has, as root without a daemon and as a plain user through it.
#
# `make nix-matrix` calls it. SUITES, USERS and TESTS choose; REI_KILLS as in the test of many kills. What was seen is in
# target/nix-matrix: a log of each cell, and table.md of all cells that have one.
set -euo pipefail
cd "$(dirname "$0")/.."

SUITES=${SUITES:-bookworm trixie sid}
USERS=${USERS:-root tester}
TESTS=${TESTS:-evolution nix source judge bad_input demo}
# The kills of the usual suite are for the supervisor, which is the same beside each Nix.
REI_KILLS=${REI_KILLS:-10}
# A cell takes minutes; what takes longer hangs.
CELL_TIMEOUT=30m
# What is slow because others work beside it is no finding.
PRIORITY=-10
LOGS=target/nix-matrix

# "NAME PROGRAM" of each test, built.
programs() {
    local wanted=() name
    for name in $TESTS; do wanted+=(--test "$name"); done
    cargo build --examples
    cargo test --no-run --message-format=json "${wanted[@]}" |
        sed -n 's/.*"kind":\["test"\].*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2/p'
}

run_cell() {
    local suite=$1 user=$2 name=$3 program=$4 threads=2
    # Its tests collect garbage, in the one store.
    [ "$name" != nix ] || threads=1
    nice -n "$PRIORITY" timeout --kill-after=30s "$CELL_TIMEOUT" scripts/nix-root.sh "$suite" "$user" env \
        REI_TEST_STORE=machine "REI_KILLS=$REI_KILLS" sh -c 'nix --version; exec "$@"' sh \
        "$program" --show-output --test-threads "$threads" >"$LOGS/$suite-$user-$name.log" 2>&1
}

# "21 passed, 1 skipped" of a log. A test that skips is one that libtest calls passed.
count() {
    awk '/^---- .* stdout ----$/ { told = 0 }
         /SKIPPED/ && !told { told = 1; skipped++ }
         /^test result: / { ended = 1; passed = $4; failed = $6 }
         END {
             if (!ended) { print "**did not end**"; exit }
             printf "%d passed", passed - skipped
             if (skipped) printf ", %d skipped", skipped
             if (failed) printf ", **%d failed**", failed
         }' "$1"
}

# All cells that have a log, as Markdown.
table() {
    local suite user name log version cells
    echo "| Nix | as | evolution | nix | judge | bad_input | demo |"
    echo "|---|---|---|---|---|---|---|"
    for suite in bookworm trixie sid; do
        for user in root tester; do
            version= cells=
            for name in evolution nix judge bad_input demo; do
                log=$LOGS/$suite-$user-$name.log
                if [ -f "$log" ]; then
                    version=$(sed -n 's/^nix (Nix) //p;T;q' "$log")
                    cells+=" $(count "$log") |"
                else
                    cells+=" not run |"
                fi
            done
            [ -z "$version" ] || case $user in
                root) echo "| $version ($suite) | root, no daemon |$cells" ;;
                *) echo "| $version ($suite) | plain user, daemon |$cells" ;;
            esac
        done
    done
}

mkdir -p "$LOGS"
built=$(programs)
code=0
for suite in $SUITES; do
    for user in $USERS; do
        while read -r name program; do
            run_cell "$suite" "$user" "$name" "$program" </dev/null || code=1
            echo "$suite $user $name: $(count "$LOGS/$suite-$user-$name.log")"
        done <<<"$built"
    done
done
table >"$LOGS/table.md"
cat "$LOGS/table.md"
[ $code = 0 ] || echo "error: not all of it passes; the logs are in $LOGS" >&2
exit $code
