//! Regular expressions on the paths of modules, as PEFT matches them.

use fancy_regex::{Regex, RegexBuilder};

use crate::error::{Error, Result};

/// Compiles an expression that must match a whole path, as `re.fullmatch` does.
pub(super) fn whole(key: &str, written: &str) -> Result<Regex> {
    compile(key, written, &format!(r"\A(?:{written})\z"))
}

/// Compiles an expression that must match the end of a path, as PEFT's `get_pattern_key` does:
/// `re.match(rf"(.*\.)?({key})$", path)`. The groups are kept, so that numbered back-references in a key mean the same
/// as in PEFT.
pub(super) fn end(section: &str, written: &str) -> Result<Regex> {
    compile(section, written, &format!(r"\A(.*\.)?({written})\z"))
}

/// The maximum number of steps of a match: hundreds of times what a reasonable expression takes on a module's path.
/// Each match of a hostile expression costs this many steps, and there is one match per module and pattern.
const MOST_STEPS: usize = 20_000;

fn compile(key: &str, written: &str, regex: &str) -> Result<Regex> {
    RegexBuilder::new(regex).backtrack_limit(MOST_STEPS).build().map_err(|error| {
        Error::Config(format!(
            "lora.{key} is {written:?}, which is not a valid regular expression ({error}); see Python's re"
        ))
    })
}

pub(super) fn is_match(regex: &Regex, module: &str) -> Result<bool> {
    regex.is_match(module).map_err(|error| {
        Error::Config(format!(
            "the regular expression {regex} of lora fails on {module} ({error}); write a simpler one"
        ))
    })
}
