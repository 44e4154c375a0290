# The keys of rei.toml, as options. The named keys have types; other keys are allowed. No option has a default here: rei's own
# defaults are in `src/config/rei.toml`, which explains each key. null leaves a key out.
{ lib, format }:
let
  inherit (lib) mkOption types;

  # The formats that rei reads: src/config/{duration,value}.rs.
  duration = types.strMatching "[0-9]+ *(ms|s|m|h|d)" // {
    description = ''duration ("250ms", "1s", "5m", "2h", "1d")'';
  };
  size = types.strMatching "[0-9]+ *(B|KiB|MiB|GiB|TiB)" // {
    description = ''size ("64MiB")'';
  };
  share = types.numbers.between 0 1;
  count = types.ints.positive;
  command = types.listOf types.str;

  # A key that may be left out.
  key =
    type: description: example:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit description example;
    };
  # A table of keys: the options name some of them, and other keys are allowed.
  table =
    options:
    types.submodule {
      freeformType = format.type;
      inherit options;
    };
  # A section that always exists.
  section =
    description: options:
    mkOption {
      type = table options;
      default = { };
      inherit description;
    };
  # A part that is off if it is left out.
  part =
    description: example: options:
    key (table options) description example;

  agent = table {
    command = mkOption {
      type = command;
      description = "The program and its arguments, as in {file}`\${lib.getExe pkgs.some-agent}`.";
      example = [
        "/run/current-system/sw/bin/some-agent"
        "--print"
      ];
    };
    env =
      key (types.attrsOf types.str)
        "Its environment variables, instead of rei's own. No secrets: they would be in the store."
        {
          MODEL = "large";
        };
    timeout = key duration "The limit of one stage." "20m";
    memory = key size "The memory limit of all its processes together." "4GiB";
    output = key size "How much of its output is kept." "4MiB";
    read =
      key (types.listOf types.str)
        "Absolute paths that it may read, besides its workspace and the system's programs."
        [
          "/etc/some-agent"
        ];
    network =
      key types.bool "Whether it may use the network: an agent that calls a model needs it."
        true;
  };
in
table {
  runtime = section "The supervised service." {
    name = mkOption {
      type = types.strMatching "[A-Za-z0-9_][A-Za-z0-9_-]*";
      description = "The runtime's name. The module sets it to the instance's.";
      example = "greeter";
    };
    source = mkOption {
      type = types.str;
      description = "A git repository with a flake: an absolute path that the unit's user may read, or a URL.";
      example = "https://github.com/example/greeter";
    };
    ref =
      key types.str "The branch or tag that rei follows: a new commit is an upgrade request."
        "main";
    dir = key types.str "The directory of the flake inside the repository." "nix";
    package = key types.str "The package of the flake: `packages.<system>.NAME`." "default";
    command = mkOption {
      type = types.nonEmptyListOf types.str;
      description = "The program inside the store path, and its arguments.";
      example = [ "bin/greeter" ];
    };
    env =
      key (types.attrsOf types.str) "Environment variables of the instances. No secrets: they would be in the store."
        {
          LANG = "C.UTF-8";
        };
    listen = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = ''
        The listening sockets as `name=address`, inherited by socket activation: `http=127.0.0.1:8080`,
        `dns=udp:127.0.0.1:53`, `ipc=unix:/run/rei/NAME/ipc.sock`.
      '';
      example = [ "http=0.0.0.0:8080" ];
    };
    strategy = key (types.enum [
      "overlap"
      "recreate"
    ]) "Whether the candidate starts beside Active, or after Active has stopped." "overlap";
    standby = key (types.enum [
      "keep"
      "fresh"
      "cold"
    ]) "What stays warm of Previous in the observation window: its instance, a fresh instance, or none." "keep";
    start_timeout = key duration "The limit from start to ready." "30s";
    stop_timeout =
      key duration "The limit from the stop signal to SIGKILL. The module sets the unit's TimeoutStopSec from it."
        "10s";
    stop_signal =
      key (types.strMatching "(SIG)?[A-Z0-9]+")
        "The signal at which an instance finishes its requests and exits, as systemd's KillSignal: SIGQUIT for nginx, SIGINT, …"
        "SIGQUIT";
    stop_mode = key (types.enum [
      "control-group"
      "mixed"
    ]) "Whether every process of the instance gets the stop signal, or only the main process." "mixed";
    poll = key duration "The pause between two polls of the followed ref." "10s";
  };

  health =
    section "How rei checks an instance's health. Without any of these, an instance is ready as soon as it runs."
      {
        http = part "A request that the instance must answer with 2xx or 3xx." { path = "/healthz"; } {
          listen =
            key types.str "The listener for the probe; only needed if there are several."
              "http";
          path = key types.str "The path of the request." "/healthz";
          interval = key duration "The pause between requests." "1s";
          timeout = key duration "The limit of one request." "500ms";
        };
        tcp = part "A connection that the instance must accept." { } {
          listen =
            key types.str "The listener for the probe; only needed if there are several."
              "http";
          interval = key duration "The pause between connections." "1s";
          timeout = key duration "The limit of one connection." "500ms";
        };
        command = part "A command that must exit 0." { command = [ "/run/current-system/sw/bin/probe" ]; } {
          command = mkOption {
            type = command;
            description = "The program and its arguments; REI_SLOT_PID and REI_STORE_PATH identify the instance.";
            example = [ "/run/current-system/sw/bin/probe" ];
          };
          interval = key duration "The pause between runs." "10s";
          timeout = key duration "The limit of one run." "5s";
        };
        notify = part "READY=1 by sd_notify." { watchdog = "10s"; } {
          watchdog = key duration "WATCHDOG=1 must come at least this often." "10s";
        };
        interface =
          part "The runtime serves io.openexec.RuntimeEvolution on the inherited socket named `rei`."
            { interval = "1s"; }
            { interval = key duration "The pause between its reports." "1s"; };
      };

  incidents = section "The conditions that open an incident." {
    crash = part "A crash loop: `restarts` restarts within the time `within`." { restarts = 3; } {
      restarts = key count "The number of restarts." 3;
      within = key duration "The time in which they happen." "60s";
    };
    repeats = key count "The number of equal crashes that start an evolution." 2;
    latency = part "A 99th percentile that is too high for too long." { p99 = "250ms"; } {
      p99 = mkOption {
        type = duration;
        description = "The limit of the 99th percentile, of probes and of the runtime's own report.";
        example = "250ms";
      };
      for = key duration "How long the value must be above the limit." "10s";
    };
    errors = part "Too many failures for too long." { ratio = 0.05; } {
      ratio = key share "Failures per request or probe." 0.05;
      for = key duration "How long the value must be above the limit." "10s";
    };
    memory = part "Growth of resident memory." { per_hour = "256MiB"; } {
      per_hour = key size "The growth in one hour." "256MiB";
      for = key duration "How long the slope must hold." "10m";
    };
    fds = part "Growth of open descriptors." { per_hour = 1000; } {
      per_hour = key count "The growth in one hour." 1000;
      for = key duration "How long the slope must hold." "10m";
    };
  };

  promotion = section "How a candidate becomes Active." {
    mode = key (types.enum [
      "automatic"
      "approve"
    ]) "Whether a passing report is enough, or an operator must approve." "approve";
    canary =
      key
        (types.listOf (table {
          share = mkOption {
            type = share;
            description = "The share of the new connections, above 0 and below 1.";
            example = 0.05;
          };
          for = mkOption {
            type = duration;
            description = "How long the candidate has this share.";
            example = "30s";
          };
        }))
        "Rising shares of the new connections, before the candidate gets all of them."
        [
          {
            share = 0.05;
            for = "30s";
          }
        ];
    observe = key duration "The observation window, in which a rollback is immediate." "5m";
    on_inconclusive = key (types.enum [
      "ask"
      "promote"
      "revert"
    ]) "What to do if there are not enough data." "ask";
    hold = key duration "How long to wait for data before that." "10m";
    keep_generations =
      key types.ints.unsigned "Generations of the profile that are kept, besides those in use."
        10;
  };

  evolution = section "How many evolutions may run." {
    budget =
      part "How many evolutions may start."
        {
          per_incident = 3;
          per_hour = 6;
          agent_runs = 20;
          agent_time = "45m";
        }
        {
          per_incident = key count "For one fingerprint of an incident." 3;
          per_hour = key count "In any one hour." 6;
          agent_runs = key count "Runs of agents in any one hour; beyond that, only an operator starts a repair." 20;
          agent_time =
            key duration "The time of agents in any one hour; beyond that, only an operator starts a repair."
              "45m";
        };
    retry =
      part "How rei tries again after a failure."
        {
          pause = "1m";
          pause_max = "1h";
          tries = 6;
        }
        {
          pause = key duration "The first pause before another try; it doubles each time." "1m";
          pause_max = key duration "The longest such pause." "1h";
          tries = key count "Tries in a row without a verdict; after that, rei asks an operator." 6;
        };
  };

  validation =
    section "What a candidate must pass, besides the checks of its flake and a start in a sandbox."
      {
        golden =
          key (types.listOf types.str)
            "Directories of golden runs. The option `golden` of the instance sets it."
            [
              "/var/lib/golden"
            ];
        protected = key (types.listOf types.str) "Globs of files that must be the same as in Active." [
          "flake.nix"
          "tests/**"
        ];
        timeout = key duration "The limit of a whole validation." "15m";
        allow_import_from_derivation =
          key types.bool "Whether evaluation may import from derivations."
            false;
      };

  blueprints = section "How rei makes candidates." {
    directory =
      key types.str "A directory of blueprints. The option `blueprints` of the instance sets it."
        "/etc/rei/blueprints";
    incident =
      key (types.either types.str (types.attrsOf types.str))
        "The blueprint for all incidents, or one for each class. Without it, rei asks an operator."
        "repair";
    upgrade = key types.str "The blueprint for a new commit of the followed ref." "upgrade";
    timeout = key duration "The limit of a whole blueprint run." "30m";
  };

  agents = mkOption {
    type = types.attrsOf agent;
    default = { };
    description = "Programs that write candidates: an AI coding agent, a script.";
    example = {
      fixer.command = [ "/run/current-system/sw/bin/some-agent" ];
    };
  };

  commands = mkOption {
    type = types.attrsOf command;
    default = { };
    description = "Commands that the blueprint action `run` may name.";
    example = {
      fmt = [
        "/run/current-system/sw/bin/make"
        "fmt"
      ];
    };
  };

  isolation = section "What instances may do and use." {
    read = key (types.listOf types.str) "Absolute paths that they may read, besides the store." [
      "/etc/greeter"
    ];
    write = key (types.listOf types.str) ''
      Absolute paths that they may write, besides their own directories. The unit may write there, too.
    '' [ "/srv/greeter" ];
    memory = key size "The memory limit of an instance." "1GiB";
    processes = key count "The limit of processes of an instance." 4096;
    fds = key count "The limit of open descriptors of each process." 65536;
    connect = key (types.listOf types.port) "TCP ports that they may connect to; if it is left out, all." [
      443
    ];
    enabled = key types.bool "Whether Landlock and seccomp are used." true;
  };

  state = section "Where rei keeps its files." {
    directory = mkOption {
      type = types.path;
      description = "Journal, evidence, mirror and the profile. The module sets it to {file}`/var/lib/rei/NAME`.";
      example = "/srv/rei/greeter";
    };
    sockets = mkOption {
      type = types.path;
      description = "Where `control.sock` and `rei.sock` are. The module sets it to {file}`/run/rei/NAME`.";
      example = "/run/rei/greeter";
    };
    operators =
      key types.str "The group that may use `control.sock`. The module sets it to the unit's."
        "rei-greeter";
    log = key size "How much of an instance's log is kept." "16MiB";
    runs = key count "How many ended evolutions, and how many incidents, are kept with their evidence." 200;
    evidence = key size "How much of their evidence is kept; the oldest is deleted first." "512MiB";
  };
}
