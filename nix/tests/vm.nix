# Tests a virtual machine with rei as a NixOS service. The machine boots and evolves the service, the supervisor is killed and
# restarted, the machine reboots in the observation window, rei rolls back, and rei refuses users that are not operators.
{ pkgs, module }:
let
  # The demo's service is scripts and an interpreter, so Nix builds candidates without a network.
  tree = ../../src/demo/tree;
in
pkgs.testers.runNixOSTest {
  name = "rei";

  nodes.machine =
    { config, pkgs, ... }:
    let
      inherit (config.services.rei) package;
    in
    {
      imports = [ module ];

      virtualisation = {
        memorySize = 2048;
        cores = 2;
        # Candidates are built into this store, and they must still be there after a reboot.
        writableStore = true;
        writableStoreUseTmpfs = false;
      };
      nix.settings = {
        experimental-features = [
          "nix-command"
          "flakes"
        ];
        substituters = pkgs.lib.mkForce [ ];
        sandbox = true;
      };
      environment.systemPackages = [ pkgs.gitMinimal ];
      users.users = {
        ada.isNormalUser = true;
        eve.isNormalUser = true;
      };

      services.rei.instances.greeter = {
        operators = [ "ada" ];
        openFirewall = true;
        settings = {
          runtime = {
            source = "/srv/greeter";
            command = [ "bin/greeter" ];
            listen = [ "http=0.0.0.0:8080" ];
            poll = "1s";
          };
          health.http.path = "/healthz";
          promotion = {
            canary = [
              {
                share = 0.5;
                for = "2s";
              }
            ];
            # Long enough for a reboot inside the window.
            observe = "2m";
            on_inconclusive = "promote";
            hold = "10s";
          };
          evolution.budget = {
            per_incident = 10;
            per_hour = 100;
          };
        };
      };

      # Makes the repository before rei starts.
      systemd.services.greeter-source = {
        requiredBy = [ "rei-greeter.service" ];
        before = [ "rei-greeter.service" ];
        path = [
          config.nix.package
          pkgs.gitMinimal
        ];
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
        };
        script = ''
          test ! -e /srv/greeter || exit 0
          cp --recursive --no-preserve=mode ${tree} /srv/new
          cd /srv/new
          chmod +x bin/greeter
          rm --recursive commits flake.lock
          sed --in-place "s|@path@|${package.unwrapped}|" flake.nix
          git init --initial-branch=main
          git config user.name ada
          git config user.email ada@example.org
          git add --all
          nix flake lock
          git add --all
          git commit --message "The greeter"
          chown --recursive rei-greeter:rei-greeter /srv/new
          mv /srv/new /srv/greeter
        '';
      };
    };

  testScript = ''
    import json
    import shlex

    REI = "rei --config /etc/rei/greeter/rei.toml"
    UNIT = "rei-greeter.service"


    def status():
        return json.loads(machine.succeed(f"{REI} status --json"))


    def as_user(user, command):
        return f"runuser -u {user} -- {command}"


    def greeting(style):
        return machine.succeed(f"curl --fail --silent 'http://127.0.0.1:8080/greet?name=Ada&style={style}'")


    def serves(text, style=1):
        machine.wait_until_succeeds(
            f"curl --fail --silent 'http://127.0.0.1:8080/greet?name=Ada&style={style}' | grep --fixed-strings {shlex.quote(text)}"
        )


    def phase(name):
        machine.wait_until_succeeds(f"{REI} status --json | grep '\"phase\": \"{name}\"'")


    def commit(before, after):
        edit = f"sed --in-place 's/{before}/{after}/' bin/greeter && git commit --all --message '{after}'"
        machine.succeed(as_user("rei-greeter", f"sh -c {shlex.quote('cd /srv/greeter && ' + edit)}"))


    def path():
        return status()["active"]["version"]["store_path"]


    def instance():
        return status()["active"]["instances"][0]["id"]


    def main_pid():
        return machine.succeed(f"systemctl show --property MainPID --value {UNIT}").strip()


    start_all()

    with subtest("it boots, and the first version serves"):
        machine.wait_for_unit(UNIT)
        machine.wait_for_open_port(8080)
        phase("steady")
        serves("Good day, Ada!")

    with subtest("only operators may use the control socket"):
        machine.succeed(as_user("ada", f"{REI} status"))
        machine.fail(as_user("eve", f"{REI} status"))
        machine.fail(as_user("eve", f"{REI} rollback"))
        machine.fail(as_user("eve", f"{REI} pause"))
        assert not status()["paused"]

    with subtest("a killed supervisor finds its instance"):
        first, supervisor = instance(), main_pid()
        machine.succeed(f"kill -KILL {supervisor}")
        serves("Good day, Ada!")
        machine.wait_until_succeeds(f"test $(systemctl show --property MainPID --value {UNIT}) -gt 0")
        phase("steady")
        assert main_pid() != supervisor
        assert instance() == first

    with subtest("a restart and a reload do not stop the instance"):
        machine.succeed(f"systemctl restart {UNIT}")
        phase("steady")
        assert instance() == first
        supervisor = main_pid()
        machine.succeed(f"systemctl reload {UNIT}")
        phase("steady")
        assert main_pid() == supervisor
        assert instance() == first

    with subtest("a commit is built, judged and promoted"):
        before = path()
        commit("Good day", "Good evening")
        phase("observing")
        serves("Good evening, Ada!")
        assert path() != before

    with subtest("after a reboot in the observation window Active or Previous serves, and the phase becomes steady"):
        machine.crash()
        machine.start()
        machine.wait_for_unit(UNIT)
        machine.wait_for_open_port(8080)
        assert greeting(0) == "Hello, Ada!"
        phase("steady")
        machine.succeed(f"{REI} journal verify")

    with subtest("an operator rolls back"):
        before = path()
        commit("Welcome", "Be welcome")
        phase("observing")
        serves("Be welcome, Ada!", style=2)
        machine.succeed(as_user("ada", f"{REI} rollback"))
        serves("Welcome, Ada!", style=2)
        phase("steady")
        assert path() == before
        machine.succeed(f"{REI} history | grep 'rolled back'")
        machine.succeed(f"{REI} journal verify")
  '';
}
