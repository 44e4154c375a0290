# What `nix flake check` builds. Each is a file of its own where it is more than a few lines.
{
  nixpkgs,
  pkgs,
  rei,
  rei-unwrapped,
  module,
  sandboxed, # the expressions of checks/, with rei as their builder
}:
let
  # The same source with another end, compiled without what only a release needs.
  instead =
    name: change:
    rei-unwrapped.overrideAttrs (
      old:
      {
        pname = "rei-${name}";
        cargoCheckType = "debug";
        doInstallCheck = false;
        installPhase = "mkdir $out";
      }
      // change old
    );
in
{
  inherit rei;

  # The model of the lifecycle: every reachable state of its worlds, and random histories.
  lifecycle = instead "lifecycle" (_: {
    dontCargoBuild = true;
    doCheck = true;
    cargoTestFlags = [ "--test=lifecycle" ];
  });

  # The pure parts. What needs a kernel, a Nix store or a network of its own is in `make test`: inside a build sandbox it
  # would only skip.
  tests = instead "tests" (_: {
    dontCargoBuild = true;
    doCheck = true;
    cargoTestFlags = [ "--lib" ];
    checkFlags = [
      "lifecycle::"
      "health::"
      "config::"
      "interface::"
      "journal::"
      "golden::"
    ];
  });

  lint = instead "lint" (old: {
    nativeBuildInputs = old.nativeBuildInputs ++ [
      pkgs.clippy
      pkgs.rustfmt
    ];
    buildPhase = ''
      cargo fmt --check -- --config-path ${../rustfmt.toml}
      cargo clippy --offline --all-targets --target ${pkgs.stdenv.hostPlatform.rust.rustcTarget} -- --deny warnings
    '';
  });

  # A build, its tests and the judge's verdicts, one trip without a supervisor.
  judged = import ./tests/judged.nix { inherit pkgs rei-unwrapped sandboxed; };
}
# checks/offline stands in for nixpkgs and has neither NixOS nor its formatter.
// nixpkgs.lib.optionalAttrs (nixpkgs.lib ? nixosSystem) {
  # As `nix fmt` leaves them.
  format =
    pkgs.runCommand "rei-nix-format"
      {
        nativeBuildInputs = [ pkgs.nixfmt ];
        src = nixpkgs.lib.fileset.toSource {
          root = ../.;
          fileset = nixpkgs.lib.fileset.fileFilter (file: file.hasExt "nix") ../.;
        };
      }
      ''
        find "$src" -name '*.nix' -exec nixfmt --check {} +
        touch "$out"
      '';
  module = import ./tests/module.nix { inherit nixpkgs pkgs module; };
  vm = import ./tests/vm.nix { inherit pkgs module; };
}
