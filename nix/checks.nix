# What `nix flake check` builds.
{
  pkgs,
  rei,
  rei-unwrapped,
}:
let
  # The same build with another end.
  instead =
    name: change:
    rei-unwrapped.overrideAttrs (
      old:
      {
        pname = "rei-${name}";
        doInstallCheck = false;
      }
      // change old
    );
in
{
  inherit rei;

  # The pure parts and the model of the lifecycle. What needs a kernel, a Nix store or a network of its own is in
  # `make test`: inside a build sandbox it would only skip.
  tests = instead "tests" (_: {
    dontCargoBuild = true;
    doCheck = true;
    cargoTestFlags = [
      "--lib"
      "--test=lifecycle"
    ];
    checkFlags = [
      "lifecycle::"
      "health::"
      "config::"
      "interface::"
      "journal::"
      "golden::"
    ];
    installPhase = "mkdir $out";
  });

  lint = instead "lint" (old: {
    nativeBuildInputs = old.nativeBuildInputs ++ [
      pkgs.clippy
      pkgs.rustfmt
    ];
    buildPhase = ''
      cargo fmt --check
      cargo clippy --offline --all-targets --target ${pkgs.stdenv.hostPlatform.rust.rustcTarget} -- --deny warnings
    '';
    installPhase = "mkdir $out";
  });
}
