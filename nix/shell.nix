# `nix develop`: the programs that `make` needs, and the tools that an editor needs.
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
  # The same flags as for the package. The explicit target that they need is in .cargo/config.toml.
  env = { inherit (rei-unwrapped.passthru) RUSTFLAGS; };
}
