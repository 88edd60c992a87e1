"""The door to Ray Serve: one app per model version, an alias per name, one HTTP gateway per cluster.

Called by the command line (`serve`), by jobs and by tests (`deploy`, `undeploy`).
"""

from rmray.serving.app.deploy import Deployed, deploy, deploy_scorer, served_models, undeploy
from rmray.serving.app.foreground import serve

__all__ = ["Deployed", "deploy", "deploy_scorer", "serve", "served_models", "undeploy"]
