//! Which rank of which job a process is, by the variables that its launcher gave it.

use rxl_agent_protocol::{Launcher, Token};

/// Which rank of which job a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The job's id, the same on all nodes. None where the environment does not tell (Hydra).
    pub job: Option<Token>,
    /// What started the job.
    pub launcher: Launcher,
    /// The rank's number in the job.
    pub rank: u32,
    /// The number of ranks in the job. 0 when the environment does not tell.
    pub size: u32,
}

/// Reads a rank's identity from its variables, if they make it one.
///
/// PMIx's namespace comes first: whatever launcher provides it, it names the job on all nodes
/// alike. Slurm's variables are also in the environment of batch scripts and of launchers that srun
/// has started, so a step's id must be there too.
pub fn identify<'a>(variable: impl Fn(&str) -> Option<&'a str>) -> Option<Identity> {
    let number = |name: &str| variable(name)?.parse::<u32>().ok();
    let size = |names: [&str; 2]| names.into_iter().find_map(number).unwrap_or(0);
    if let (Some(space), Some(rank)) = (variable("PMIX_NAMESPACE"), number("PMIX_RANK")) {
        let openmpi = variable("OMPI_COMM_WORLD_SIZE").is_some();
        let launcher = if openmpi { Launcher::OpenMpi } else { Launcher::Pmix };
        let size = size(["OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"]);
        return Some(Identity { job: Some(Token::from_text(space)), launcher, rank, size });
    }
    if let (Some(job), Some(rank)) =
        (variable("OMPI_MCA_ess_base_jobid"), number("OMPI_COMM_WORLD_RANK"))
    {
        let size = size(["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"]);
        return Some(Identity {
            job: Some(Token::from_text(job)),
            launcher: Launcher::OpenMpi,
            rank,
            size,
        });
    }
    if let (Some(job), Some(step), Some(rank)) =
        (variable("SLURM_JOB_ID"), variable("SLURM_STEP_ID"), number("SLURM_PROCID"))
    {
        let job = Token::from_text(&format!("slurm.{job}.{step}"));
        let size = size(["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"]);
        return Some(Identity { job: Some(job), launcher: Launcher::Slurm, rank, size });
    }
    let rank = number("PMI_RANK")?;
    let job = variable("PMI_JOBID").map(|job| Token::from_text(&format!("pmi.{job}")));
    Some(Identity {
        job,
        launcher: Launcher::Hydra,
        rank,
        size: size(["PMI_SIZE", "MPI_LOCALNRANKS"]),
    })
}

/// The job of Hydra's ranks, by the command line of the proxy that has started them. The id is the
/// port at which mpiexec listens: the same in all its proxies, and in no other job's.
pub fn hydra_job(proxy: &[String]) -> Option<Token> {
    let at = proxy.iter().position(|word| word == "--control-port")?;
    proxy.get(at + 1).map(|port| Token::from_text(&format!("hydra.{port}")))
}

/// Whether a process starts ranks or carries their messages to the launcher: such a process is
/// never frozen. `comm` is the kernel's name for it, cut at 15 bytes.
pub fn is_launcher(comm: &str) -> bool {
    const LAUNCHERS: [&str; 16] = [
        "orted",
        "orterun",
        "prted",
        "prte",
        "prterun",
        "mpirun",
        "mpiexec",
        "mpiexec.hydra",
        "mpiexec.mpich",
        "hydra_pmi_proxy",
        "hydra_bstrap_pr",
        "srun",
        "slurmstepd",
        "sshd",
        "ssh",
        "rxl-guest-agent",
    ];
    LAUNCHERS.iter().any(|name| name.get(..15).unwrap_or(name) == comm)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(variables: &[(&str, &'static str)]) -> Option<Identity> {
        identify(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| *value))
    }

    fn rank_of(job: &str, launcher: Launcher, rank: u32, size: u32) -> Option<Identity> {
        Some(Identity { job: Some(Token::from_text(job)), launcher, rank, size })
    }

    #[test]
    fn open_mpi() {
        let four = [
            ("PMIX_NAMESPACE", "3456106497"),
            ("PMIX_RANK", "2"),
            ("OMPI_COMM_WORLD_RANK", "2"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
        ];
        assert_eq!(identity(&four), rank_of("3456106497", Launcher::OpenMpi, 2, 4));
        let old = [
            ("OMPI_MCA_ess_base_jobid", "77"),
            ("OMPI_COMM_WORLD_RANK", "0"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
        ];
        assert_eq!(identity(&old), rank_of("77", Launcher::OpenMpi, 0, 2));
    }

    #[test]
    fn slurm_with_and_without_pmix() {
        let slurm = [
            ("SLURM_JOB_ID", "12"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", "3"),
            ("SLURM_NTASKS", "8"),
        ];
        assert_eq!(identity(&slurm), rank_of("slurm.12.0", Launcher::Slurm, 3, 8));
        let pmix =
            [("PMIX_NAMESPACE", "slurm.pmix.12.0"), ("PMIX_RANK", "3"), ("SLURM_NTASKS", "8")];
        assert_eq!(identity(&pmix), rank_of("slurm.pmix.12.0", Launcher::Pmix, 3, 8));
    }

    #[test]
    fn a_batch_script_is_no_rank() {
        assert_eq!(identity(&[("SLURM_JOB_ID", "12"), ("SLURM_PROCID", "0")]), None);
    }

    #[test]
    fn hydra() {
        let identity = identity(&[("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("PMI_FD", "9")]);
        assert_eq!(
            identity,
            Some(Identity { job: None, launcher: Launcher::Hydra, rank: 1, size: 2 })
        );
        let proxy =
            ["hydra_pmi_proxy", "--control-port", "n1:4000", "--proxy-id", "0"].map(String::from);
        assert_eq!(hydra_job(&proxy), Some(Token::from_text("hydra.n1:4000")));
        assert_eq!(hydra_job(&proxy[..2]), None);
    }

    #[test]
    fn others_are_not_ranks() {
        assert_eq!(identity(&[("PMIX_RANK", "one"), ("PMIX_NAMESPACE", "x")]), None);
        assert_eq!(identity(&[("HOME", "/")]), None);
    }

    #[test]
    fn launchers() {
        assert!(is_launcher("orted") && is_launcher("hydra_pmi_proxy"));
        assert!(is_launcher("rxl-guest-agent"));
        assert!(!is_launcher("a.out") && !is_launcher("ort"));
    }
}
