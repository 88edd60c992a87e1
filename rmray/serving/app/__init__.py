"""The door to Ray Serve: one app per model version, an alias per name, one HTTP gateway per cluster.

Called by the command line (`serve`), by jobs and by tests (`deploy`, `undeploy`).
"""

from rmray.serving.app.deploy import Deployed, deploy, deploy_scorer, served_models, undeploy
from rmray.serving.app.foreground import serve
from rmray.serving.app.versions import promote, roll_back

__all__ = ["Deployed", "deploy", "deploy_scorer", "promote", "roll_back", "serve", "served_models", "undeploy"]
