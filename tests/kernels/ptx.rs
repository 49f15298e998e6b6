//! The compiled kernels match the sources beside them.

use std::fs;
use std::path::Path;

use ring::digest::{Context, SHA256};

/// The first line that `tests/device/ptx.py` writes: the hash of all headers in the order of their names, then of the
/// source.
fn first_line(folder: &Path, source: &str) -> String {
    let mut headers: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    headers.retain(|path| path.extension().is_some_and(|end| end == "cuh"));
    headers.sort();
    let mut context = Context::new(&SHA256);
    headers.iter().for_each(|header| context.update(&fs::read(header).unwrap()));
    context.update(&fs::read(folder.join(format!("{source}.cu"))).unwrap());
    let hash: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("// source sha256: {hash}")
}

#[test]
fn compiled_kernels_are_those_of_their_sources() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/device/kernels");
    let named = |end: &str| {
        let mut names: Vec<String> = fs::read_dir(&folder)
            .unwrap()
            .filter_map(|entry| {
                entry.unwrap().file_name().to_str().unwrap().strip_suffix(end).map(String::from)
            })
            .collect();
        names.sort();
        names
    };
    // Attention is compiled for each head size.
    let source = |module: &str| {
        module.split('_').next().filter(|name| *name == "attention").unwrap_or(module).to_string()
    };
    let compiled = named(".ptx");
    let mut sources: Vec<String> = compiled.iter().map(|module| source(module)).collect();
    sources.dedup();
    sources.sort();
    sources.dedup();
    assert_eq!(sources, named(".cu"));
    for module in compiled {
        let text = fs::read_to_string(folder.join(format!("{module}.ptx"))).unwrap();
        let want = first_line(&folder, &source(&module));
        assert_eq!(
            text.lines().next(),
            Some(want.as_str()),
            "{module}.ptx is old: run tests/device/ptx.py --ptx"
        );
    }
}
