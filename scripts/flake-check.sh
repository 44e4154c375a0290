#!/usr/bin/env bash
# `nix flake check` of rei's own flake where nixpkgs is out of reach: checks/offline stands in for it, with the crates of
# Cargo.lock and the compiler of this machine. Everything else is as it is: evaluation, sandbox, builds.
#
# What needs NixOS itself cannot be checked so, and is named at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

LEFT_OUT="format module vm"

case $(id -u) in
    0) ;;
    *) echo "error: handing the compiler into Nix's sandbox needs root, or a trusted user" >&2
       echo "hint: with nixpkgs in reach no compiler is handed in: nix flake check" >&2
       exit 1 ;;
esac

crates=$PWD/target/crates
echo "crates of Cargo.lock: $crates" >&2
cargo vendor --quiet --locked "$crates" >/dev/null

nix() {
    local paths="/bin /usr /lib /etc/alternatives? /toolchain=$(rustc --print sysroot) /crates=$crates"
    [ ! -e /lib64 ] || paths="$paths /lib64"
    command nix --extra-experimental-features "nix-command flakes" "$@" \
        --override-input nixpkgs "path:$PWD/checks/offline" --no-write-lock-file \
        --option sandbox true --option sandbox-fallback false --option sandbox-paths "$paths" \
        --option substitute false
}

system=$(command nix --extra-experimental-features nix-command eval --raw --impure --expr builtins.currentSystem)
nix flake check --print-build-logs "$@"

names=$(nix eval --json ".#checks.$system" --apply builtins.attrNames)
echo "checked: $names" >&2
for name in $LEFT_OUT; do
    case $names in
        *"\"$name\""*) echo "error: the check $name is said to be left out, and was not" >&2; exit 1 ;;
    esac
done
echo "left out, as they need NixOS or its formatter from nixpkgs: $LEFT_OUT" >&2
