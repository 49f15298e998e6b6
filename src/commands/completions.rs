//! `dpo-lora completions`: what shells offer while a command is written.

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::output::print;
use crate::cli::{Cli, CompletionsArgs};
use crate::error::Result;

/// The name of the program.
const NAME: &str = "dpo-lora";

pub(super) fn run(args: &CompletionsArgs) -> Result<()> {
    print(script(args.shell).as_bytes())
}

/// The script of a shell.
fn script(shell: Shell) -> String {
    let mut command = shown(&Cli::command()).version(env!("CARGO_PKG_VERSION")).propagate_version(true);
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, NAME, &mut text);
    // For bash clap_complete spells the hyphen of a program's name in one way where a subcommand is noted, and in another where
    // it is looked up.
    let (noted, looked_up) = (NAME.replace('-', "__"), NAME.replace('-', "__subcmd__"));
    String::from_utf8_lossy(&text).replace(&format!("{looked_up}__subcmd__"), &format!("{noted}__subcmd__"))
}

/// A command without the subcommands and the options that its help does not show.
fn shown(command: &Command) -> Command {
    // clap takes names that live as long as the program, which ends after this.
    let name = |name: &str| -> &'static str { name.to_string().leak() };
    let copy = Command::new(name(command.get_name()))
        .visible_aliases(command.get_visible_aliases().map(name))
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()).cloned())
        .subcommands(command.get_subcommands().filter(|inner| !inner.is_hide_set()).map(shown));
    match command.get_about() {
        Some(about) => copy.about(about.clone()),
        None => copy,
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_has_a_script_without_what_is_hidden() {
        for shell in Shell::value_variants() {
            let text = script(*shell);
            assert!(text.contains("learning-curve") && text.contains("rates"), "{shell}");
            assert!(!text.contains("manual page"), "{shell} offers a hidden command");
        }
    }

    /// The words that bash offers for the last word of a line; `None` where there is no bash.
    #[cfg(unix)]
    fn offered(script: &std::path::Path, line: &[&str]) -> Option<Vec<String>> {
        const ASK: &str = "source \"$1\" || exit\n\
            shift\n\
            function=$(complete -p dpo-lora | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
            COMP_WORDS=(dpo-lora \"$@\")\n\
            COMP_CWORD=$#\n\
            \"$function\" dpo-lora \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"\n\
            printf '%s\\n' \"${COMPREPLY[@]}\"\n";
        let mut bash = std::process::Command::new("bash");
        let ran = bash.args(["--norc", "-c", ASK, "bash"]).arg(script).args(line).output().ok()?;
        let text = String::from_utf8(ran.stdout).unwrap();
        assert!(ran.status.success() && ran.stderr.is_empty(), "{}", String::from_utf8_lossy(&ran.stderr));
        Some(text.lines().filter(|word| !word.is_empty()).map(String::from).collect())
    }

    #[cfg(unix)]
    #[test]
    fn bash_completes_subcommands_their_options_and_values() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("dpo-lora");
        std::fs::write(&path, script(Shell::Bash)).unwrap();
        for (line, words) in [
            (&["m"][..], &["merge"][..]),
            (&["l"], &["lr-find"]),
            (&["train", "--lo"], &["--loss"]),
            (&["-q", "train", "--lo"], &["--loss"]),
            (&["lr-find", "--ra"], &["--rates"]),
            // It always refuses this.
            (&["lr-find", "--ep"], &[]),
            (&["cache", "c"], &["clear"]),
            (&["eval", "w"], &["win-rate"]),
            (&["eval", "--be"], &["--beta"]),
            (&["eval", "win-rate", "--ju"], &["--judge"]),
            (&["eval", "learning-curve", "--me"], &["--measure"]),
            (&["chat", "--dtype", ""], &["auto", "f32", "bf16", "f16"]),
            (&["chat", "--device", "c"], &["cpu", "cuda"]),
            (&["merge", "--dtype", "q8"], &["q8_0"]),
            (&["completions", "z"], &["zsh"]),
        ] {
            let Some(found) = offered(&path, line) else {
                eprintln!("this machine has no bash: its completion is not tested");
                return;
            };
            assert_eq!(found, words, "{line:?}");
        }
    }
}
