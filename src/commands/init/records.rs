//! The records, read with the settings that a base needs, and what to do where that is not enough.

use crate::cli::InitArgs;
use crate::config::RunConfig;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::files::shell_word;
use crate::toolkit::{Base, Inputs};

/// The chat template for a base that has none.
const TEMPLATE: &str = "chatml";

/// Keys that messages about records name as the remedy.
const KEYS: [&str; 7] =
    ["chat_template", "columns", "filter", "format", "max_length", "max_prompt_length", "on_error"];

/// Reads the records to train on. Conversations for a base without a chat template get a common one, which is set in `config`.
///
/// # Errors
/// As [`Inputs::read`].
pub(super) fn read(config: &mut RunConfig, base: &Base) -> Result<Dataset> {
    let read =
        |config: &RunConfig| Inputs::read(config.clone(), base, false).map(|inputs| inputs.examples.train);
    let error = match read(config) {
        Ok(train) => return Ok(train),
        Err(error) => error,
    };
    if base.tokenizer(None)?.template().is_some() {
        return Err(error);
    }
    config.data.chat_template = Some(TEMPLATE.into());
    read(config).map_err(|_| error)
}

/// The error with a command that takes the key of `data` that it names: `init` has no flags for them.
pub(super) fn with_remedy(error: Error, args: &InitArgs) -> Error {
    let told = |message: String| {
        let Some(key) = KEYS.iter().find(|key| message.contains(&format!("data.{key}"))) else {
            return message;
        };
        let data = args.data.iter().map(|data| format!(" --data {}", shell_word(data.as_ref())));
        format!(
            "{message}. Nothing was written, since init has no flag for it: `dpo-lora train --base {}{} --set data.{key}=VALUE` \
             begins the run without a file",
            shell_word(args.base.as_ref()),
            data.collect::<String>()
        )
    };
    match error {
        Error::Config(message) => Error::Config(told(message)),
        Error::Data(message) => Error::Data(told(message)),
        Error::Record { file, line, message } => Error::Record { file, line, message: told(message) },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_init_lacks_is_given_to_the_run() {
        let args = InitArgs {
            base: "a base".into(),
            data: vec!["a.jsonl".into()],
            eval_data: None,
            output: "run.yaml".into(),
            force: false,
            no_timing: true,
        };
        let told = |message: &str| with_remedy(Error::Data(message.into()), &args).to_string();
        let found = told("40 records are invalid; skip them with data.on_error: skip");
        assert!(
            found.contains("dpo-lora train --base 'a base' --data a.jsonl --set data.on_error=VALUE"),
            "{found}"
        );
        assert!(told("raise data.max_prompt_length").contains("--set data.max_prompt_length=VALUE"));
        assert_eq!(told("data.jsonl is empty"), "data.jsonl is empty");
    }
}
