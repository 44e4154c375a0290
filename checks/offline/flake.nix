{
  description = "Replaces nixpkgs on machines that cannot fetch it: the parts that rei's flake uses, from this machine's programs";

  # `make flake-check` uses it in place of the flake's input. Builds are real and sandboxed, and sandbox-paths adds the machine's
  # compiler. It has no NixOS, and none of the functions that need NixOS (`nixosSystem`, `testers`).
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
