//! How this process was started: alone, or as one of several by a launcher.

use super::tcp::{Meeting, parsed};
use crate::error::{Error, Result};

/// How the ranks of a run are connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launch {
    /// There is one rank.
    Alone,
    /// They meet at an address of rank 0.
    Tcp(Meeting),
    /// By MPI, which must know of as many processes as the launcher started.
    #[cfg(feature = "mpi")]
    Mpi(usize),
}

/// Launchers of MPI programs, and the variables in which they tell the number of processes and of this one.
const LAUNCHERS: &[(&str, &str, &str)] = &[
    ("mpirun (Open MPI)", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("mpirun (MPICH, Intel MPI)", "PMI_SIZE", "PMI_RANK"),
    ("mpirun (MVAPICH2)", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
];

/// Variables in which launchers tell a process its number among those of its machine: Open MPI, MPICH and Intel MPI, Cray,
/// MVAPICH2, PALS, Slurm, `torchrun`.
const LOCAL: &[&str] = &[
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "PMI_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
    "SLURM_LOCALID",
    "LOCAL_RANK",
];

/// Port at which ranks meet if `MASTER_PORT` does not name one, as in PyTorch.
const PORT: u16 = 29500;

/// Ranks, at most.
const MOST_RANKS: usize = 1 << 16;

/// Reads the variables of the environment, which `variable` returns.
///
/// # Errors
/// If it was started as one of several processes that this program cannot connect, or a variable is invalid.
pub fn launch(variable: impl Fn(&str) -> Option<String>) -> Result<Launch> {
    let number = |name: &str| -> Result<Option<usize>> {
        let Some(text) = variable(name).filter(|text| !text.trim().is_empty()) else { return Ok(None) };
        let invalid =
            |_| Error::Config(format!("the environment variable {name} is {text:?}; it must be a number"));
        text.trim().parse().map(Some).map_err(invalid)
    };
    // What one process alone finds there may be about something else.
    let several = |size: &str, rank: &str| -> Result<Option<(usize, usize)>> {
        match number(size)? {
            Some(0) => Err(Error::Config(format!(
                "the environment variable {size} is 0; it must be the number of processes, 1 or more"
            ))),
            Some(count) if count > MOST_RANKS => Err(Error::Config(format!(
                "there are {count} processes; at most {MOST_RANKS} can train together"
            ))),
            Some(count) if count > 1 => Ok(number(rank)?.map(|rank| (count, rank))),
            Some(_) | None => Ok(None),
        }
    };
    let mut launcher = None;
    for (name, size, rank) in LAUNCHERS {
        if let Some((size, rank)) = several(size, rank)? {
            launcher = Some((*name, size, rank));
            break;
        }
    }
    #[cfg(feature = "mpi")]
    if let Some((_, size, _)) = launcher {
        return Ok(Launch::Mpi(size));
    }
    let named = several("WORLD_SIZE", "RANK")?.map(|(size, rank)| ("WORLD_SIZE and RANK", size, rank));
    let Some((by, size, rank)) = launcher.or(named) else {
        return half_told(&variable).map_or(Ok(Launch::Alone), Err);
    };
    let Some(host) = variable("MASTER_ADDR").filter(|host| !host.trim().is_empty()) else {
        return Err(unconnected(by, size));
    };
    if rank >= size {
        return Err(out_of_range(rank, size));
    }
    let (host, beside) = parsed(&host, "MASTER_ADDR")?;
    let named = match variable("MASTER_PORT").filter(|text| !text.trim().is_empty()) {
        None => None,
        Some(text) => match text.trim().parse() {
            Ok(0) | Err(_) => {
                return Err(Error::Config(format!(
                    "the environment variable MASTER_PORT is {text:?}; it must be a port, such as {PORT}"
                )));
            }
            Ok(port) => Some(port),
        },
    };
    if let (Some(port), Some(beside)) = (named, beside)
        && port != beside
    {
        return Err(Error::Config(format!(
            "MASTER_PORT is {port}, and MASTER_ADDR names port {beside}; leave one of them out"
        )));
    }
    let port = named.or(beside).unwrap_or(PORT);
    Ok(Launch::Tcp(Meeting { rank, size, host, port }))
}

/// The error for a process that knows a part only of what a launcher tells: it would take itself for the only one, as each of
/// the others would.
fn half_told(variable: &impl Fn(&str) -> Option<String>) -> Option<Error> {
    let number = |name: &str| -> Option<usize> { variable(name)?.trim().parse().ok() };
    let meets = variable("MASTER_ADDR").is_some_and(|host| !host.trim().is_empty());
    let launchers = LAUNCHERS.iter().map(|(_, size, rank)| (*size, *rank));
    launchers.chain([("WORLD_SIZE", "RANK")]).find_map(|(size, rank)| {
        // Process 0 may be the only one, as the batch script of Slurm is. RANK alone may be about something else.
        let is_one_of_several = |place: usize| if rank == "RANK" { meets } else { place > 0 };
        let (set, value, missing) = match (number(size), number(rank)) {
            (Some(count), None) if count > 1 => (size, count, rank),
            (None, Some(place)) if is_one_of_several(place) => (rank, place, size),
            (Some(1), Some(place)) if place > 0 && is_one_of_several(place) => {
                return Some(out_of_range(place, 1));
            }
            _ => return None,
        };
        Some(Error::Config(format!(
            "the environment variable {set} is {value}, so that this process is one of several, and {missing} is not set: each of \
             them would do the whole work for itself. Set {missing} for all of them, or unset {set} to run one process"
        )))
    })
}

fn out_of_range(rank: usize, size: usize) -> Error {
    Error::Config(format!("this is rank {rank} of {size}; ranks count from 0"))
}

/// The number of this process among those of its machine, which decides about its card; 0 if it is alone, or no launcher says.
pub fn local_rank(variable: impl Fn(&str) -> Option<String>) -> usize {
    match launch(&variable) {
        // An error is told where the ranks join.
        Ok(Launch::Alone) | Err(_) => 0,
        Ok(_) => LOCAL.iter().find_map(|name| variable(name)?.trim().parse().ok()).unwrap_or(0),
    }
}

/// The error for processes that would each train the whole run.
fn unconnected(by: &str, size: usize) -> Error {
    let mpi = match by {
        "WORLD_SIZE and RANK" => "",
        _ => {
            "build the program with MPI, `cargo install dpo-lora --features mpi` with libopenmpi-dev or libmpich-dev installed, or "
        }
    };
    Error::Config(format!(
        "{by} started {size} processes, and this program cannot connect them: it has no MPI and MASTER_ADDR is not set. To train \
         one adapter on all of them, {mpi}set MASTER_ADDR to the address of rank 0 (and MASTER_PORT) for all of them, to \
         connect them by TCP. To train on one process, start one"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(set: &[(&str, &str)]) -> Result<Launch> {
        launch(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()))
    }

    #[test]
    fn one_process_is_alone_and_a_batch_script_of_slurm_too() {
        for set in [
            &[][..],
            &[("OMPI_COMM_WORLD_SIZE", "1"), ("OMPI_COMM_WORLD_RANK", "0")],
            &[("WORLD_SIZE", "1"), ("RANK", "0"), ("MASTER_ADDR", "a")],
            &[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")],
            &[("RANK", "abc")],
            &[("WORLD_SIZE", ""), ("RANK", " "), ("PMI_RANK", "x")],
            &[("WORLD_SIZE", "1"), ("RANK", "first")],
            // What schedulers set for a single process.
            &[("WORLD_SIZE", "1")],
            &[("WORLD_SIZE", "1"), ("MASTER_ADDR", "a")],
            &[("MASTER_ADDR", "a"), ("LOCAL_RANK", "0")],
            &[("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_PROCID", "0")],
            &[("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_NTASKS", "4")],
            &[("PMI_RANK", "0")],
            // The rank of an adapter.
            &[("RANK", "16")],
            &[("RANK", "16"), ("WORLD_SIZE", "1")],
        ] {
            assert_eq!(found(set).unwrap(), Launch::Alone, "{set:?}");
        }
    }

    #[test]
    fn torchrun_and_an_address_beside_a_launcher_meet_by_tcp() {
        let meeting = |port| Launch::Tcp(Meeting { rank: 2, size: 4, host: "node-0".into(), port });
        let torchrun =
            [("WORLD_SIZE", "4"), ("RANK", "2"), ("MASTER_ADDR", "node-0"), ("MASTER_PORT", "7000")];
        assert_eq!(found(&torchrun).unwrap(), meeting(7000));
        for (address, port) in [("[fd00::1]:7000", 7000), ("fd00::1", PORT)] {
            let ranks = [("WORLD_SIZE", "4"), ("RANK", "2"), ("MASTER_ADDR", address)];
            let meeting = Meeting { rank: 2, size: 4, host: "fd00::1".into(), port };
            assert_eq!(found(&ranks).unwrap(), Launch::Tcp(meeting));
        }
        let srun = [("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_PROCID", "2"), ("MASTER_ADDR", "node-0")];
        #[cfg(not(feature = "mpi"))]
        assert_eq!(found(&srun).unwrap(), meeting(PORT));
        #[cfg(feature = "mpi")]
        assert_eq!(found(&srun).unwrap(), Launch::Mpi(4));
    }

    #[test]
    fn every_launcher_tells_the_number_on_the_machine() {
        let local = |set: &[(&str, &str)]| {
            local_rank(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()))
        };
        let torchrun = [("WORLD_SIZE", "4"), ("RANK", "2"), ("MASTER_ADDR", "node-0")];
        assert_eq!(local(&torchrun), 0);
        for name in LOCAL {
            let set = [torchrun[0], torchrun[1], torchrun[2], (name, "1")];
            assert_eq!(local(&set), 1, "{name}");
        }
        // mpirun inside a job of Slurm, whose own numbers are those of mpirun's daemons.
        let both = [
            torchrun[0],
            torchrun[1],
            torchrun[2],
            ("SLURM_LOCALID", "0"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "3"),
        ];
        assert_eq!(local(&both), 3);
        // One process of its own, and what is no number.
        assert_eq!(local(&[("LOCAL_RANK", "3")]), 0);
        assert_eq!(local(&[torchrun[0], torchrun[1], torchrun[2], ("LOCAL_RANK", "x")]), 0);
    }

    #[test]
    fn a_launch_that_is_told_by_half_is_refused_by_what_is_missing() {
        let refused = |set: &[(&str, &str)], words: &str| {
            let error = found(set).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(words), "{set:?}: {error}");
        };
        let address = ("MASTER_ADDR", "a");
        for more in [address, ("LOCAL_RANK", "1"), ("MASTER_PORT", "7000")] {
            let words = "WORLD_SIZE is 2, so that this process is one of several, and RANK is not set";
            refused(&[("WORLD_SIZE", "2"), more], words);
            refused(&[("WORLD_SIZE", "2"), ("RANK", " "), more], words);
        }
        refused(
            &[("RANK", "0"), address],
            "RANK is 0, so that this process is one of several, and WORLD_SIZE",
        );
        refused(&[("RANK", "1"), ("WORLD_SIZE", "1"), address], "rank 1 of 1; ranks count from 0");
        refused(&[("RANK", "0"), ("WORLD_SIZE", "0")], "WORLD_SIZE is 0; it must be the number of processes");
        for (_, size, rank) in LAUNCHERS {
            refused(
                &[(size, "3")],
                &format!("{size} is 3, so that this process is one of several, and {rank}"),
            );
            refused(
                &[(rank, "1")],
                &format!("{rank} is 1, so that this process is one of several, and {size}"),
            );
        }
        // A launch that is told as a whole counts, whatever else is set.
        let whole = [("PMI_RANK", "1"), ("WORLD_SIZE", "4"), ("RANK", "2"), address];
        assert!(matches!(found(&whole).unwrap(), Launch::Tcp(Meeting { rank: 2, size: 4, .. })));
    }

    #[test]
    fn several_processes_that_cannot_be_connected_are_refused() {
        let error = |set: &[(&str, &str)]| {
            let error = found(set).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        #[cfg(not(feature = "mpi"))]
        for (launcher, size, rank) in LAUNCHERS {
            let text = error(&[(size, "3"), (rank, "0")]);
            assert!(text.starts_with(&format!("{launcher} started 3 processes")), "{text}");
            assert!(text.contains("--features mpi") && text.contains("MASTER_ADDR"), "{text}");
        }
        assert!(error(&[("WORLD_SIZE", "2"), ("RANK", "0")]).contains("set MASTER_ADDR"));
        assert!(error(&[("WORLD_SIZE", "99999999999"), ("RANK", "0")]).contains("at most 65536"));
        assert!(error(&[("WORLD_SIZE", "two"), ("RANK", "0")]).contains("WORLD_SIZE is \"two\""));
        let base = [("WORLD_SIZE", "2"), ("RANK", "2"), ("MASTER_ADDR", "a")];
        let placed = |more: (&'static str, &'static str)| error(&[base[0], ("RANK", "1"), base[2], more]);
        assert!(placed(("MASTER_PORT", "0")).contains("MASTER_PORT is \"0\""));
        let two = [base[0], ("RANK", "1"), ("MASTER_ADDR", "[::1]:7000"), ("MASTER_PORT", "7001")];
        assert!(error(&two).contains("MASTER_PORT is 7001, and MASTER_ADDR names port 7000"));
        assert!(error(&base).contains("rank 2 of 2"));
        assert!(error(&[base[0], ("RANK", "1"), base[2], ("MASTER_PORT", "x")]).contains("MASTER_PORT"));
    }
}
