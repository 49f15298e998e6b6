//! With the feature `mpi`: compiles the functions of MPI that the program calls, with the compiler wrapper of the MPI that is
//! installed, and links that MPI.

fn main() {
    println!("cargo::rerun-if-changed=src/ranks/mpi/shim.c");
    println!("cargo::rerun-if-env-changed=MPICC");
    #[cfg(feature = "mpi")]
    mpi();
}

#[cfg(feature = "mpi")]
fn mpi() {
    let wrapper = std::env::var("MPICC").unwrap_or_else(|_| "mpicc".into());
    // Both Open MPI and MPICH print the command that the wrapper would run.
    let shown = match std::process::Command::new(&wrapper).arg("-show").output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        found => {
            let why = found.map_or_else(|e| e.to_string(), |output| output.status.to_string());
            println!(
                "cargo::error=the feature `mpi` needs MPI, and `{wrapper} -show` fails ({why}): install libopenmpi-dev or libmpich-dev, \
                 or name the compiler wrapper in the variable MPICC"
            );
            return;
        }
    };
    cc::Build::new().compiler(&wrapper).file("src/ranks/mpi/shim.c").warnings(true).compile("dpo_lora_mpi");
    for word in shown.split_whitespace() {
        if let Some(path) = word.strip_prefix("-L") {
            println!("cargo::rustc-link-search=native={path}");
        } else if let Some(name) = word.strip_prefix("-l") {
            println!("cargo::rustc-link-lib={name}");
        } else if word.starts_with("-Wl,") {
            println!("cargo::rustc-link-arg={word}");
        }
    }
}
