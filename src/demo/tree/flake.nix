{
  description = "The greeter: a small web service, written in scripts";

  # The interpreter, a static program. (`rei demo` puts it into the store and locks it, so that no network is needed.)
  inputs.interpreter = {
    url = "path:@path@";
    flake = false;
  };

  outputs =
    { self, interpreter }:
    let
      program = "${interpreter}/bin/rei-demo-runtime";
      run =
        system: name: args:
        derivation {
          inherit name system args;
          builder = program;
        };
      # Each file is an own store path: what did not change is not built or tested again.
      file =
        path:
        builtins.path {
          path = self + "/${path}";
          name = builtins.baseNameOf path;
        };

      greeter =
        system:
        run system "greeter" [
          "package"
          (file "bin/greeter")
          "bin/greeter"
        ];

      # Every file in tests/ is a check by its name.
      checks =
        system:
        builtins.listToAttrs (
          map (test: {
            name = builtins.replaceStrings [ ".rhai" ] [ "" ] test;
            value = run system "test-${test}" [
              "test"
              (file "bin/greeter")
              (file "tests/${test}")
            ];
          }) (builtins.attrNames (builtins.readDir (self + "/tests")))
        );

      systems =
        f:
        builtins.listToAttrs (
          map
            (name: {
              inherit name;
              value = f name;
            })
            [
              "x86_64-linux"
              "aarch64-linux"
            ]
        );
    in
    {
      packages = systems (system: {
        default = greeter system;
      });
      checks = systems checks;
    };
}
