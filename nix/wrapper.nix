# rei with the programs that it calls: git and Nix, at the end of PATH, so that the machine's own programs come first. The
# machine's Nix fits its daemon.
#
# It is a separate derivation: rei finds itself by /proc/self/exe, which is the static program behind the wrapper, so a check's
# sandbox gets that program's closure, without git and Nix.
{
  lib,
  gitMinimal,
  makeBinaryWrapper,
  nix,
  rei-unwrapped,
  runCommand,
}:
runCommand "rei-${rei-unwrapped.version}"
  {
    inherit (rei-unwrapped) pname version meta;
    nativeBuildInputs = [ makeBinaryWrapper ];
    passthru.unwrapped = rei-unwrapped;
  }
  ''
    makeWrapper ${lib.getExe rei-unwrapped} "$out/bin/rei" \
      --inherit-argv0 \
      --suffix PATH : ${
        lib.makeBinPath [
          gitMinimal
          nix
        ]
      }
  ''
