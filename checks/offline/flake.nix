{
  description = "Stands in for nixpkgs where it is out of reach: what rei's flake asks of it, from the programs of this machine";

  # Given by `make flake-check` in place of the flake's input. Builds are real and sandboxed, with the machine's compiler
  # handed in by sandbox-paths; NixOS is not here, so what needs it (`nixosSystem`, `testers`) is not either.
  outputs =
    { self }:
    {
      lib = import ./lib.nix;
      legacyPackages = self.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
        system:
        import ./packages.nix {
          inherit (self) lib;
          inherit system;
        }
      );
    };
}
