"""A sweep is a directory of runs, and every job of it is a process of its own.

runs/<name>/<date>_<time>_<short id>/
  sweep.yaml         the command, and the overrides of every job, before the first starts;
                     of a study its settings and search space; of a search for scaling's
                     coefficients its candidates
  study.db           of a study: its trials, in Optuna's tables; trial n is job n
  front.csv          of a study with a front, at its end: the trials on it
  model/<name>.yaml  of a search for a net: the best ones, as options of the group model
  <number>/          a run; overrides.yaml before it starts, job.json: how its process ended
  <number>.<status>-1/   an earlier attempt of the job, kept when the job began again
  .locks/<number>    held by a job's process for as long as it lives

A fresh process for each job keeps ranks, ports, W&B's run and the device's memory of one job from the next.

    record    the sweep on disk: what was planned, and what became of it
    jobs      a job as a process
    space     Hydra's search-space syntax as Optuna's distributions
    objective what a trial is worth: its metric, and what its net costs
    study     the trials of a search
    pruning   what a trial's training tells its study, and hears
    resuming  going on with a recorded sweep, whoever recorded it
    nets      what a search found, as a yaml that model= takes
    table     the jobs for a terminal
    winner    which of a search's candidates is best; candidate_tables shows it

train.py imports record and jobs in a sweep: they are kept light.
"""
