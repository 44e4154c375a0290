# `nix flake init --template`: a runtime to start with, in four languages.
let
  template = path: description: {
    inherit path description;
    welcomeText = ''
      # A service for rei

      - Make it a repository: `git init && git add --all && nix flake lock && git add --all && git commit -m Begin`
      - Check the file and the machine: `rei check`
      - Supervise it: `rei run`, and in another terminal `rei status --watch`
    '';
  };
in
rec {
  default = python;
  go = template ./go "A Go service with its rei.toml, golden run and blueprint";
  python = template ./python "A Python service with its rei.toml, golden run and blueprint";
  rust = template ./rust "A Rust service with its rei.toml, golden run and blueprint";
  shell = template ./shell "A shell script as a service with its rei.toml, golden run and blueprint";
}
