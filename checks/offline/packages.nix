# The few packages that the flake uses: derivations whose builder is the machine's shell.
{ lib, system }:
let
  target = "${lib.removeSuffix "-linux" system}-unknown-linux-gnu";

  # Like nixpkgs' mkDerivation: attributes are variables of the build, phases are shell code.
  mkDerivation =
    attrs:
    let
      words = [
        "env"
        "meta"
        "nativeBuildInputs"
        "passthru"
        "cargoLock"
      ];
      package = derivation (
        {
          name = attrs.name or "${attrs.pname}-${attrs.version}";
          inherit system target;
          builder = "/bin/bash";
          args = [ ./build.sh ];
        }
        // removeAttrs attrs words
        // attrs.env or { }
      );
    in
    package
    // {
      meta = attrs.meta or { };
      passthru = attrs.passthru or { };
      nativeBuildInputs = attrs.nativeBuildInputs or [ ];
      inherit (attrs) version;
      overrideAttrs = change: mkDerivation (attrs // change attrs);
    }
    // attrs.passthru or { };

  runCommand =
    name: attrs: buildCommand:
    mkDerivation ({ version = ""; } // attrs // { inherit name buildCommand; });

  # A program that the machine has: an empty package, so that the flake can name it.
  ofMachine = name: runCommand name { meta.mainProgram = name; } "mkdir -p $out/bin";

  packages = {
    inherit lib runCommand;
    stdenv.hostPlatform = {
      inherit system;
      rust.rustcTarget = target;
    };
    callPackage =
      file: given:
      let
        make = import file;
      in
      make (builtins.intersectAttrs (builtins.functionArgs make) packages // given);

    rustPlatform.buildRustPackage = attrs: mkDerivation ({ buildType = "release"; } // attrs);
    writeText = name: text: runCommand name { inherit text; } ''printf %s "$text" > $out'';
    mkShell =
      attrs:
      mkDerivation {
        name = "shell";
        version = "";
        buildCommand = "touch $out";
        env = attrs.env or { };
      };
  }
  // lib.genAttrs [
    "cargo"
    "clippy"
    "git"
    "gitMinimal"
    "glibc"
    "gnumake"
    "makeBinaryWrapper"
    "nix"
    "nixfmt-tree"
    "python3"
    "rust-analyzer"
    "rustfmt"
  ] ofMachine;
in
packages
