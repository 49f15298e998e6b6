//! `dpo-lora chat`: a conversation with the adapter on, off or both.

mod command;
mod conversation;

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;

use self::command::{Command, HELP, Mode};
use self::conversation::{Answer, Conversation, Ending};
use super::adapted::{adapted, base};
use super::output::{inputs_of, print, say};
use super::signals::{self, Chat};
use crate::cli::ChatArgs;
use crate::error::{Error, Result};
use crate::files;
use crate::generate::{Completion, FinishReason, Limits, Request, SamplingConfig, complete_streaming};
use crate::model::pass::Pass;
use crate::toolkit::Adapted;
use crate::toolkit::prompts::without_room;

pub(super) fn run(args: &ChatArgs) -> Result<()> {
    check_save(args)?;
    let base = base(&args.model)?;
    let adapted = adapted(&base, &args.model)?;
    adapted.policy.trained.refuse_score("chat")?;
    let mode = if adapted.policy.is_adapted() { Mode::On } else { Mode::Off };
    let has_template = adapted.tokenizer.template().is_some();
    if !has_template {
        say("the model has no chat template: each line is completed as it is, without those before it");
        if args.system.is_some() {
            return Err(Error::Config(
                "--system needs a chat template; name one with --chat-template".into(),
            ));
        }
    }
    let conversation = Conversation::new(args.system.clone(), has_template);
    let limits =
        Limits { max_new_tokens: args.max_new_tokens, eos: base.eos(&adapted.tokenizer), stop: Vec::new() };
    let mut chatting = Chatting {
        args,
        adapted: &adapted,
        limits,
        conversation,
        mode,
        drawn: 0,
        signals: signals::converse(),
    };
    let stdin = std::io::stdin();
    let is_terminal = stdin.is_terminal();
    if is_terminal {
        say("/help lists the commands; Ctrl-C stops an answer");
    }
    loop {
        if is_terminal {
            // Nothing can be done about a closed standard error.
            let _ = write!(std::io::stderr(), "> ").and_then(|()| std::io::stderr().flush());
        }
        let Some(line) = read_message(&mut stdin.lock())? else { return Ok(()) };
        match line.and_then(|line| Command::parse(&line)) {
            Ok(Command::Quit) => return Ok(()),
            Ok(command) => chatting.obey(command)?,
            Err(problem) => say(&problem),
        }
    }
}

/// Refuses to append to a file that is read, and to one that holds no pairs.
fn check_save(args: &ChatArgs) -> Result<()> {
    inputs_of(&args.model).check_file(&args.save)?;
    files::check_earlier(&args.save, "a file of pairs", |head| {
        let first = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let first = String::from_utf8_lossy(first);
        first.starts_with('{') && first.contains("\"chosen\"")
    })
}

/// Reads a line; a `\` at its end continues it on the next one. `None` at the end of the input; the inner error says why the
/// line is not a message.
fn read_message(input: &mut impl BufRead) -> Result<Option<Result<String, String>>> {
    let mut message = Vec::new();
    loop {
        let mut line = Vec::new();
        let read = input.read_until(b'\n', &mut line).map_err(Error::read("standard input"))?;
        if read == 0 && message.is_empty() {
            return Ok(None);
        }
        while let Some(b'\n' | b'\r') = line.last() {
            line.pop();
        }
        let is_continued = line.last() == Some(&b'\\');
        line.truncate(line.len() - usize::from(is_continued));
        message.append(&mut line);
        if is_continued {
            message.push(b'\n');
            continue;
        }
        let invalid = |_| "the message is not valid UTF-8, and is not sent; write it in UTF-8".to_string();
        return Ok(Some(String::from_utf8(message).map_err(invalid)));
    }
}

/// A conversation in progress.
struct Chatting<'a> {
    args: &'a ChatArgs,
    adapted: &'a Adapted<'a>,
    limits: Limits,
    conversation: Conversation,
    mode: Mode,
    /// Answers so far: each has a random stream of its own.
    drawn: u64,
    signals: Arc<Chat>,
}

impl Chatting<'_> {
    /// Does what a line asks for. What the model refuses is said, and the conversation goes on.
    ///
    /// # Errors
    /// If standard output cannot be written.
    fn obey(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Nothing | Command::Quit => {}
            Command::Help => say(HELP),
            Command::Adapter(mode) => self.switch(mode),
            Command::System(text) => match self.conversation.set_system(text) {
                Ok(()) => say("the conversation starts over with this system prompt"),
                Err(problem) => say(&problem),
            },
            Command::Reset => {
                self.conversation.reset();
                say("the conversation starts over");
            }
            Command::Save(choice) => match self.conversation.save(&self.args.save, choice) {
                Ok(pair) => say(&format!("{}: {pair}", self.args.save.display())),
                Err(error) => say(&error.to_string()),
            },
            Command::Retry => {
                if self.conversation.is_asked() {
                    self.answer()?;
                } else {
                    say("there is no message to answer again");
                }
            }
            Command::Message(text) => {
                self.conversation.ask(text);
                self.answer()?;
            }
        }
        Ok(())
    }

    fn switch(&mut self, mode: Option<Mode>) {
        match mode {
            Some(mode) if mode != Mode::Off && !self.adapted.policy.is_adapted() => {
                return say("there is no adapter; start with --adapter PATH");
            }
            Some(mode) => self.mode = mode,
            None => {}
        }
        say(match self.mode {
            Mode::On => "the adapter is on",
            Mode::Off => "the adapter is off",
            Mode::Both => "both answer: first with the adapter off, then on",
        });
    }

    /// Writes the answers to the last message: one, or one of each side.
    fn answer(&mut self) -> Result<()> {
        let prompt = match self.prompt() {
            Ok(prompt) => prompt,
            Err(error) => {
                self.conversation.take_back();
                say(&format!("{error}; the message is taken back"));
                return Ok(());
            }
        };
        let seed = self.args.seed.wrapping_add(self.drawn);
        self.drawn += 1;
        for side in self.mode.sides() {
            let number = self.conversation.answers() + 1;
            if self.mode == Mode::Both || number > 1 {
                print(format!("[{number}: adapter {}] ", side.name()).as_bytes())?;
            }
            let written = self.written(&prompt, *side, seed)?;
            match written {
                Ok((text, ending)) => {
                    if let (Some(why), true) = (ending.unfinished(), ending != Ending::Stopped) {
                        say(&format!("answer {number} {why}"));
                    }
                    self.conversation.add(Answer { side: *side, text, ending });
                }
                Err(problem) => {
                    if number == 1 {
                        self.conversation.take_back();
                    }
                    say(&problem);
                    return Ok(());
                }
            }
            if self.signals.is_stopped() {
                break;
            }
        }
        Ok(())
    }

    /// The tokens that an answer continues.
    ///
    /// # Errors
    /// If the template refuses the messages, or they leave the model no position for an answer.
    fn prompt(&self) -> Result<Vec<u32>> {
        let Adapted { tokenizer, decoder, policy, .. } = self.adapted;
        let prompt = self.conversation.encoded(tokenizer)?;
        let (asked, remedy) = if tokenizer.template().is_some() {
            ("the conversation", "/reset starts it over")
        } else {
            ("the message", "write a shorter one")
        };
        match without_room(prompt.len(), decoder, policy)? {
            Some(clause) => Err(Error::Data(format!("{asked} has {clause}: {remedy}"))),
            None => Ok(prompt),
        }
    }

    /// Streams an answer, and says how it ended; what was written until it was stopped is the answer. The inner error is the
    /// model's, in words.
    fn written(&self, prompt: &[u32], side: Mode, seed: u64) -> Result<Result<(String, Ending), String>> {
        let Adapted { tokenizer, decoder, policy, .. } = self.adapted;
        let pass = if side == Mode::On { Pass::Policy } else { Pass::Reference };
        let sampling =
            SamplingConfig { temperature: self.args.temperature, top_k: None, top_p: self.args.top_p, seed };
        let request = Request::new(prompt.to_vec(), sampling);
        let (mut text, mut closed) = (String::new(), None);
        let mut show = |piece: &str| {
            text.push_str(piece);
            if let Err(error) = print(piece.as_bytes()) {
                closed = Some(error);
            }
            if closed.is_some() || self.signals.is_stopped() {
                return Err(Error::Data("stopped".into()));
            }
            Ok(())
        };
        let found = self.signals.during(|| {
            complete_streaming(decoder, tokenizer, &request, (policy, pass), &self.limits, &mut show)
        });
        if let Some(error) = closed {
            return Err(error);
        }
        let found = match found {
            Ok(completion) => {
                let ending = self.ending(&completion);
                Ok((completion.text, ending))
            }
            Err(_) if self.signals.is_stopped() => Ok((text, Ending::Stopped)),
            Err(error) => Err(error.to_string()),
        };
        let is_stopped = matches!(found, Ok((_, Ending::Stopped)));
        print(if is_stopped { b" [stopped]\n" } else { b"\n" })?;
        Ok(found)
    }

    /// How an answer ended that was not stopped.
    fn ending(&self, completion: &Completion) -> Ending {
        match completion.finish_reason {
            FinishReason::Stop => Ending::Finished,
            FinishReason::Length if completion.tokens.len() < self.limits.max_new_tokens => Ending::Positions,
            FinishReason::Length => Ending::Limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_continues_a_line() {
        let mut input = "one\ntwo \\\nthree\r\n\nlast".as_bytes();
        let all: Vec<String> =
            std::iter::from_fn(|| read_message(&mut input).unwrap()).map(Result::unwrap).collect();
        assert_eq!(all, ["one", "two \nthree", "", "last"]);
        assert_eq!(read_message(&mut "open\\\n".as_bytes()).unwrap().unwrap().unwrap(), "open\n");
    }

    #[test]
    fn a_message_that_is_not_utf_8_is_refused_as_a_whole() {
        let mut input: &[u8] = b"caf\xe9 \\\nau lait\nnext\n";
        let error = read_message(&mut input).unwrap().unwrap().unwrap_err();
        assert!(error.contains("not valid UTF-8"), "{error}");
        assert_eq!(read_message(&mut input).unwrap().unwrap().unwrap(), "next");
    }
}
