# rei with the programs that it calls: git and Nix, at the end of PATH, so that those of the machine come first. The Nix of
# the machine is the one that fits its daemon.
#
# It is a derivation of its own: rei finds itself by /proc/self/exe, which is the static program behind the wrapper, and a
# check's sandbox gets that program's closure without git and Nix in it.
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
