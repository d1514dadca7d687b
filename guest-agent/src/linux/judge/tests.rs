//! The table against process trees that were seen, and some that are only documented.

use std::collections::BTreeMap;

use super::*;

/// A recorded process tree. Its lines:
///
/// - `# ...`: what it is of.
/// - `P PID PPID NAME`: a process. The lines up to the next are of it: `A` an argument, `E` a
///   variable, `M` that it has a library of MPI's in memory.
/// - `R PID JOB PART LAUNCHER RANK SIZE`: it is this rank. All other processes are none.
#[derive(Default)]
struct Recorded(BTreeMap<i32, One>);

#[derive(Default)]
struct One {
    parent: i32,
    name: String,
    arguments: Vec<String>,
    variables: Variables,
    has_mpi: bool,
}

impl Recorded {
    /// The processes, and the ranks that are expected among them.
    fn read(text: &str) -> (Self, BTreeMap<i32, Identity>) {
        let (mut all, mut ranks, mut last) = (Self::default(), BTreeMap::new(), 0);
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (kind, rest) = line.split_at(1);
            let rest = rest.trim_start();
            match kind {
                "P" => {
                    let mut words = rest.splitn(3, ' ');
                    let mut word = || words.next().expect("a word");
                    last = word().parse().expect("a pid");
                    let one = One {
                        parent: word().parse().expect("a pid"),
                        name: word().into(),
                        ..One::default()
                    };
                    all.0.insert(last, one);
                }
                "R" => {
                    let (pid, identity) = expected(rest);
                    ranks.insert(pid, identity);
                }
                _ => all.0.get_mut(&last).expect("a process").add(kind, rest),
            }
        }
        (all, ranks)
    }
}

impl One {
    fn add(&mut self, kind: &str, rest: &str) {
        match kind {
            "A" => self.arguments.push(rest.into()),
            "E" => {
                let (name, value) = rest.split_once('=').expect("a variable");
                self.variables.insert(name.into(), value.into());
            }
            "M" => self.has_mpi = true,
            _ => panic!("{kind} {rest}"),
        }
    }
}

fn expected(rest: &str) -> (i32, Identity) {
    let words: Vec<_> = rest.split(' ').collect();
    let number = |at: usize| words[at].parse().expect("a number");
    let identity = Identity {
        job: words[1].parse().expect("a job"),
        part: number(2),
        launcher: words[3].parse().expect("a launcher"),
        rank: number(4),
        size: number(5),
    };
    (words[0].parse().expect("a pid"), identity)
}

impl Processes for Recorded {
    fn pids(&self) -> Vec<i32> {
        self.0.keys().copied().collect()
    }

    fn parent(&self, pid: i32) -> Option<i32> {
        self.0.get(&pid).map(|one| one.parent)
    }

    fn children(&self, pid: i32) -> Vec<i32> {
        self.0.iter().filter(|(_, one)| one.parent == pid).map(|(pid, _)| *pid).collect()
    }

    fn name(&self, pid: i32) -> Option<&str> {
        self.0.get(&pid).map(|one| one.name.as_str())
    }

    fn arguments(&self, pid: i32) -> Vec<String> {
        self.0.get(&pid).map(|one| one.arguments.clone()).unwrap_or_default()
    }

    fn variables(&self, pid: i32) -> Variables {
        self.0.get(&pid).map(|one| one.variables.clone()).unwrap_or_default()
    }

    fn has_mpi(&self, pid: i32) -> bool {
        self.0.get(&pid).is_some_and(|one| one.has_mpi)
    }
}

fn ranks_in(processes: &Recorded) -> BTreeMap<i32, Identity> {
    let judged = judge_all(processes);
    judged.into_iter().filter_map(|(pid, one)| Some((pid, one.verdict.ok()?))).collect()
}

fn check(text: &str) {
    let (processes, expected) = Recorded::read(text);
    assert_eq!(ranks_in(&processes), expected, "{}", text.lines().next().unwrap_or_default());
}

macro_rules! trees {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(include_str!(concat!("../trees/", stringify!($name), ".txt")));
        })*
    };
}

trees! {
    openmpi4
    openmpi4_spawn
    openmpi4_singleton_spawn
    openmpi4_salloc
    openmpi4_interactive
    openmpi4_srun_pty
    openmpi5_spawn
    openmpi5_singleton_spawn
    mpich4
    mpich4_pmi_port
    mpich41_spawn
    mpich42_spawn
    mpich5
    mpich5_pmi_port
    mpich5_spawn
    mpich_salloc
    mpich_interactive
    intel2021_10
    intel2021_18
    intel2021_18_spawn
    slurm_pmi2
    slurm_pmix
    slurm_batch
    mvapich2_rsh
    intel2018
    slurm_lone_shell
}

fn variables(all: &[(&str, &str)]) -> Recorded {
    let variables = all.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Recorded([(9, One { name: "a.out".into(), variables, ..One::default() })].into())
}

/// A rank whose launcher has ended, or which a container engine has started.
#[test]
fn without_a_launcher_above_it_a_process_is_judged_by_its_variables() {
    let alone = |all: &[(&str, &str)]| ranks_in(&variables(all)).remove(&9);
    let pmix = [("PMIX_NAMESPACE", "slurm.pmix.12.0"), ("PMIX_RANK", "3")];
    let identity = |job: &str, launcher, rank, size| {
        Some(Identity { job: Token::from_text(job), part: 0, launcher, rank, size })
    };
    assert_eq!(alone(&pmix), identity("slurm.pmix.12.0", Launcher::Pmix, 3, 0));
    let step = [("SLURM_JOB_ID", "12"), ("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "3")];
    assert_eq!(alone(&step), identity("slurm.12.0", Launcher::Slurm, 3, 0));
    let intel = [("I_MPI_HYDRA_UUID", "a-b"), ("PMI_RANK", "1"), ("PMI_SIZE", "2")];
    assert_eq!(alone(&intel), identity("hydra.a-b", Launcher::Hydra, 1, 2));
    assert_eq!(alone(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")]), None, "no job");
    assert_eq!(alone(&[("PMIX_RANK", "one"), ("PMIX_NAMESPACE", "x")]), None);
    assert_eq!(alone(&[("HOME", "/")]), None);
}

#[test]
fn why_a_process_is_no_rank_is_told() {
    let why = |all: &[(&str, &str)]| judge(9, &variables(all)).verdict.unwrap_err();
    assert_eq!(why(&[("PMI_RANK", "1")]), Why::NoJob);
    let shell = [("SLURM_JOB_ID", "1"), ("SLURM_STEP_ID", "4294967290"), ("SLURM_PROCID", "0")];
    assert_eq!(why(&shell), Why::SpecialStep);
    assert_eq!(why(&[("SLURM_PROCID", "0"), ("SLURM_JOB_ID", "1")]), Why::NoJob, "a batch script");
    assert_eq!(why(&[]), Why::NoRank);
}

#[test]
fn namespaces_name_the_launch_and_the_group() {
    let told = |text| namespace(text);
    assert_eq!(told("148832257"), ("148832257".into(), 0));
    assert_eq!(told("148832259"), ("148832257".into(), 2));
    assert_eq!(told("148832256"), ("148832256".into(), 0), "the daemons' own");
    assert_eq!(told("7"), ("7".into(), 0));
    assert_eq!(told("prterun-n1-77@1"), ("prterun-n1-77@1".into(), 0));
    assert_eq!(told("prterun-n1-77@3"), ("prterun-n1-77@1".into(), 2));
    assert_eq!(told("prte-n1-77@3"), ("prte-n1-77".into(), 3));
    assert_eq!(told("slurm.pmix.12.0"), ("slurm.pmix.12.0".into(), 0));
    assert_eq!(told("prterun-n1-77@x"), ("prterun-n1-77@x".into(), 0));
}

/// MPICH's gforker starts the ranks of one host, and tells them of no job.
#[test]
fn a_job_of_gforkers_is_named_by_its_mpiexec() {
    let mut processes = variables(&[("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("PMI_FD", "8")]);
    for name in ["mpiexec.gforker", "mpiexec"] {
        processes.0.insert(8, One { name: name.into(), ..One::default() });
        processes.0.get_mut(&9).expect("a rank").parent = 8;
        let identity = ranks_in(&processes).remove(&9).expect("a rank");
        let job = identity.job.as_str();
        assert!(job.starts_with("gforker.") && job.ends_with(".8") && job.len() > 40, "{job}");
        assert_eq!((identity.rank, identity.size), (0, 2));
    }
}

/// What mpiexec has started directly are the programs that carry its proxies elsewhere.
#[test]
fn a_launcher_that_starts_no_ranks_itself_has_none() {
    let mut processes = variables(&[("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("PMI_JOBID", "x")]);
    processes.0.insert(8, One { name: "mpiexec.hydra".into(), ..One::default() });
    processes.0.get_mut(&9).expect("a rank").parent = 8;
    assert_eq!(judge(9, &processes).verdict, Err(Why::StartsNoRanks));
}
