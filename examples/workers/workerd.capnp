# Serves worker.js, bundled into bundle.js beside this file: examples/README.md.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "main", worker = .chat),
    (name = "internet", network = (allow = ["public", "private", "local"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:8400", http = (), service = "main")],
);

const chat :Workerd.Worker = (
  modules = [(name = "worker.js", esModule = embed "bundle.js")],
  bindings = [
    (name = "METERD_URL", fromEnvironment = "METERD_URL"),
    (name = "METERD_KEY", fromEnvironment = "METERD_KEY"),
    (name = "PROVIDER_URL", fromEnvironment = "PROVIDER_URL"),
  ],
  compatibilityDate = "2026-10-20",
);
