"""`rmray benchmark serve`: a served model beside the bare forward and a one-forward-per-request server, in one run."""
