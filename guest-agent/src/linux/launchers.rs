//! The table of launchers: which processes each of them starts, and where it says which rank of
//! which job a process is.
//!
//! The nearest launcher above a process decides, not the first variable that is found: what starts
//! ranks is often started by another launcher, whose variables the ranks then have too.
//!
//! ```text
//!   slurmstepd            SLURM_PROCID=0, SLURM_STEP_NUM_TASKS=1
//!     bash                (the shell of an interactive step)
//!       mpiexec.hydra
//!         hydra_pmi_proxy --control-port n1:4000
//!           a.out         PMI_RANK=3, PMI_SIZE=4, and SLURM_PROCID=0 still
//! ```
//! `trees/` has process trees that were seen, and what comes of them. docs/agent.md has the table
//! for readers, and how each row was tried.

use rxl_agent_protocol::Launcher;

/// One launcher: its processes, and its variables.
#[derive(Debug)]
pub struct Row {
    /// Its name in explanations.
    pub name: &'static str,
    /// What dom0 is told.
    pub launcher: Launcher,
    /// Names (`/proc/PID/comm`) of the processes that start ranks. One name may be in several rows,
    /// as `mpiexec` is: the first row that knows the variables is taken.
    pub starters: &'static [&'static str],
    /// Names of processes that belong to it and start no ranks themselves.
    pub helpers: &'static [&'static str],
    /// Where the job's id comes from, the best first.
    pub job: &'static [Source],
    /// Variables with the rank's number, the best first.
    pub rank: &'static [&'static str],
    /// Variables with the number of ranks, the best first. Without any the size is unknown.
    pub size: &'static [&'static str],
}

/// Where a job's id comes from: something that is the same for all its ranks, and for no other's.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// A variable with a namespace of PMIx's. ORTE's and PRRTE's name the launch and the process
    /// group in it, so that a job keeps its id when it calls MPI_Comm_spawn.
    Namespace(&'static str),
    /// A variable, after this prefix.
    Variable(&'static str, &'static str),
    /// Two variables, joined by a colon, after this prefix.
    Pair(&'static str, [&'static str; 2]),
    /// The word after this one in the starter's command line, after this prefix.
    Argument(&'static str, &'static str),
    /// Slurm's job and step. Some steps have no ranks.
    Step,
    /// The starter itself, for launchers of a single host.
    Starter(&'static str),
}

/// Steps from this number on are Slurm's own: an interactive shell's (4294967290), a batch
/// script's, and what holds processes that came by ssh (slurm.h, SLURM_INTERACTIVE_STEP and above).
pub const FIRST_SPECIAL_STEP: u32 = 4_294_967_280;

/// The launchers. A process without any above it is looked up by its variables in this order.
pub const TABLE: [Row; 6] = [
    Row {
        name: "orte",
        launcher: Launcher::OpenMpi,
        // mpirun starts the ranks of its own host itself. It is seen under the name that it was
        // called by; Debian's has a suffix. oshrun is OpenSHMEM's.
        starters: &[
            "orted",
            "orterun",
            "mpirun",
            "mpiexec",
            "mpirun.openmpi",
            "mpiexec.openmpi",
            "oshrun",
            "oshrun.openmpi",
            "shmemrun",
            "shmemrun.openmpi",
        ],
        helpers: &[],
        job: &[Source::Namespace("PMIX_NAMESPACE"), Source::Namespace("OMPI_MCA_ess_base_jobid")],
        rank: &["OMPI_COMM_WORLD_RANK"],
        size: &["OMPI_COMM_WORLD_SIZE"],
    },
    Row {
        name: "prrte",
        launcher: Launcher::Pmix,
        // mpirun of Open MPI 5 becomes prterun.
        starters: &["prted", "prterun", "prte"],
        helpers: &["prun", "pterm", "ompirun_wrapper"],
        job: &[Source::Namespace("PMIX_NAMESPACE")],
        rank: &["PMIX_RANK"],
        size: &["OMPI_COMM_WORLD_SIZE"],
    },
    Row {
        name: "slurm",
        launcher: Launcher::Slurm,
        starters: &["slurmstepd"],
        helpers: &["srun", "salloc", "sbatch", "sattach", "slurmd", "slurmctld"],
        job: &[Source::Namespace("PMIX_NAMESPACE"), Source::Step],
        rank: &["SLURM_PROCID"],
        size: &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
    },
    Row {
        name: "hydra",
        launcher: Launcher::Hydra,
        // Intel MPI's bootstrap proxy becomes the PMI proxy, or starts it. Up to 2018 that was
        // called pmi_proxy.
        starters: &["hydra_pmi_proxy", "pmi_proxy"],
        helpers: &[
            "mpiexec.hydra",
            "mpirun.hydra",
            "mpiexec.mpich",
            "mpirun.mpich",
            "hydra_bstrap_proxy",
            "hydra_nameserver",
            "hydra_persist",
        ],
        // MPICH's port is the one at which mpiexec listens to its proxies. Intel MPI's proxies have
        // no such argument.
        job: &[
            Source::Variable("hydra.", "I_MPI_HYDRA_UUID"),
            Source::Argument("hydra.", "--control-port"),
            Source::Variable("pmi.", "PMI_JOBID"),
        ],
        // With mpiexec -pmi-port there is no PMI_RANK, and no size.
        rank: &["PMI_RANK", "PMI_ID"],
        size: &["PMI_SIZE"],
    },
    Row {
        name: "mpirun_rsh",
        launcher: Launcher::Hydra,
        starters: &["mpispawn"],
        helpers: &["mpirun_rsh"],
        job: &[Source::Pair("mpirun_rsh.", ["MPISPAWN_MPIRUN_HOST", "MPISPAWN_MPIRUN_PORT"])],
        rank: &["MV2_COMM_WORLD_RANK"],
        size: &["MV2_COMM_WORLD_SIZE"],
    },
    Row {
        name: "gforker",
        launcher: Launcher::Hydra,
        starters: &["mpiexec.gforker", "mpiexec"],
        helpers: &[],
        job: &[Source::Starter("gforker.")],
        rank: &["PMI_RANK"],
        size: &["PMI_SIZE"],
    },
];

/// Processes that carry messages between a launcher's processes, and the agent.
const CARRIERS: [&str; 6] = ["sshd", "sshd-session", "ssh", "rsh", "rshd", "rxl-guest-agent"];

/// What a process is to its launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It starts ranks.
    Starter,
    /// It does not.
    Helper,
}

/// What a process with this name (`/proc/PID/comm`) is to a launcher of the table.
pub fn role(name: &str) -> Option<Role> {
    let is_in = |names: fn(&Row) -> &[&str]| TABLE.iter().any(|row| has(names(row), name));
    if is_in(|row| row.starters) {
        Some(Role::Starter)
    } else if is_in(|row| row.helpers) {
        Some(Role::Helper)
    } else {
        None
    }
}

/// The rows with a starter of this name.
pub fn rows_of(name: &str) -> impl Iterator<Item = &'static Row> + '_ {
    TABLE.iter().filter(move |row| has(row.starters, name))
}

/// Whether a process starts ranks or carries their messages to the launcher: such a process is
/// never frozen.
pub fn is_launcher(name: &str) -> bool {
    role(name).is_some() || has(&CARRIERS, name)
}

/// Whether one of these is the name. The kernel cuts names at 15 bytes (TASK_COMM_LEN).
fn has(names: &[&str], name: &str) -> bool {
    names.iter().any(|known| known.get(..15).unwrap_or(known) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_as_the_kernel_cuts_them() {
        for name in ["orted", "hydra_pmi_proxy", "hydra_bstrap_pr", "mpirun.openmpi", "sshd"] {
            assert!(is_launcher(name), "{name}");
        }
        for name in ["a.out", "ort", "hydra_bstrap", "bash", "slurm_script"] {
            assert!(!is_launcher(name), "{name}");
        }
        assert_eq!(role("hydra_bstrap_pr"), Some(Role::Helper));
        assert_eq!(role("sshd"), None);
    }

    #[test]
    fn a_name_that_starts_ranks_in_one_row_is_no_helper_in_another() {
        for row in &TABLE {
            let cut = |name: &&str| name.get(..15).unwrap_or(name).to_owned();
            let helps = |name: &&str| role(&cut(name)) == Some(Role::Helper);
            assert!(row.helpers.iter().all(helps), "{row:?}");
        }
        let rows: Vec<_> = rows_of("mpiexec").map(|row| row.name).collect();
        assert_eq!(rows, ["orte", "gforker"]);
    }
}
