# `nix develop`: what `make` needs, and the tools of an editor.
{ pkgs, rei-unwrapped }:
pkgs.mkShell {
  inputsFrom = [ rei-unwrapped ];
  packages = with pkgs; [
    cargo
    clippy
    rustfmt
    rust-analyzer
    git
    gnumake
    nix
    python3
  ];
  # As the package is linked. The explicit target that these flags need is in .cargo/config.toml.
  env = { inherit (rei-unwrapped.passthru) RUSTFLAGS; };
}
