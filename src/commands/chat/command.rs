//! What a line of a conversation asks for.

/// The commands, for people.
pub(super) const HELP: &str = "\
/adapter on|off|both   who answers: the adapter, the base, or one after the other
/retry                 another answer to the last message
/save [N [M]]          append a pair: answer N preferred to answer M (on and off name the last of each side)
/save! [N [M]]         the same with answers that were cut or stopped, which /save refuses
/system [TEXT]         set the system prompt, or remove it, and start over
/reset                 forget the conversation
/quit                  leave, as Ctrl-D does
//text                 a message that begins with /; a \\ at the end of a line continues it on the next one";

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The policy.
    On,
    /// The base.
    Off,
    /// The base, then the policy.
    Both,
}

impl Mode {
    /// Its name in commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Both => "both",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::On, Self::Off, Self::Both].into_iter().find(|mode| mode.name() == text)
    }

    /// The sides that answer, in order.
    pub fn sides(self) -> &'static [Self] {
        match self {
            Self::On => &[Self::On],
            Self::Off => &[Self::Off],
            Self::Both => &[Self::Off, Self::On],
        }
    }
}

/// An answer that `/save` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// Its number, from 1.
    Number(usize),
    /// The last one of a side.
    Side(Mode),
}

impl Named {
    fn parse(text: &str) -> Result<Self, String> {
        match (text.parse(), Mode::parse(text)) {
            (Ok(number), _) if number > 0 => Ok(Self::Number(number)),
            (_, Some(side)) if side != Mode::Both => Ok(Self::Side(side)),
            _ => Err(format!("{text:?} names no answer; write its number, on, or off")),
        }
    }
}

/// The pair that `/save` appends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Save {
    /// The better answer, if it is named.
    pub chosen: Option<Named>,
    /// The worse answer, if it is named.
    pub rejected: Option<Named>,
    /// Whether answers are taken that do not end by themselves.
    pub unfinished: bool,
}

/// A line of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// An empty line.
    Nothing,
    Help,
    Quit,
    Reset,
    Retry,
    /// `None` asks who answers.
    Adapter(Option<Mode>),
    /// `None` removes the system prompt.
    System(Option<String>),
    /// A pair.
    Save(Save),
    Message(String),
}

impl Command {
    /// Reads a line.
    ///
    /// # Errors
    /// A message for a command that does not exist, or has the wrong words behind it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let text = line.trim();
        if text.is_empty() {
            return Ok(Self::Nothing);
        }
        if let Some(message) = text.strip_prefix("//") {
            return Ok(Self::Message(format!("/{message}")));
        }
        let Some(command) = text.strip_prefix('/') else { return Ok(Self::Message(text.into())) };
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        let alone = |command: Self| {
            if rest.is_empty() {
                Ok(command)
            } else {
                Err(format!("/{name} takes no argument (got {rest:?})"))
            }
        };
        match name {
            "help" => alone(Self::Help),
            "quit" | "exit" => alone(Self::Quit),
            "reset" => alone(Self::Reset),
            "retry" => alone(Self::Retry),
            "adapter" if rest.is_empty() => Ok(Self::Adapter(None)),
            "adapter" => Mode::parse(rest)
                .map(|mode| Self::Adapter(Some(mode)))
                .ok_or_else(|| format!("/adapter takes on, off or both, not {rest:?}")),
            "system" => Ok(Self::System((!rest.is_empty()).then(|| rest.to_string()))),
            "save" | "save!" => {
                let mut named = rest.split_whitespace().map(Named::parse);
                let (chosen, rejected) = (named.next().transpose()?, named.next().transpose()?);
                if named.next().is_some() {
                    return Err(format!(
                        "/{name} takes two answers at most: the better one, and the worse one"
                    ));
                }
                Ok(Self::Save(Save { chosen, rejected, unfinished: name == "save!" }))
            }
            _ => Err(format!(
                "/{name} is not a command; /help lists the commands, and //{name} sends it as a message"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        let parse = |line: &str| Command::parse(line).unwrap();
        assert_eq!(parse("  "), Command::Nothing);
        assert_eq!(parse(" hello /help "), Command::Message("hello /help".into()));
        assert_eq!(parse("//help"), Command::Message("/help".into()));
        assert_eq!(parse("/adapter both"), Command::Adapter(Some(Mode::Both)));
        assert_eq!(parse("/system be brief "), Command::System(Some("be brief".into())));
        assert_eq!(parse("/system"), Command::System(None));
        assert_eq!(parse("/save"), Command::Save(Save::default()));
        let (chosen, rejected) = (Some(Named::Number(3)), Some(Named::Side(Mode::Off)));
        let both = Save { chosen, rejected, unfinished: false };
        assert_eq!(parse("/save 3 off"), Command::Save(both));
        assert_eq!(parse("/save! 3 off"), Command::Save(Save { unfinished: true, ..both }));
        for wrong in
            ["/adapter maybe", "/save both", "/save 0", "/save! 1 2 3", "/quit!", "/quit now", "/hepl", "/"]
        {
            assert!(Command::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_help_names_every_command() {
        for name in ["adapter", "retry", "save", "save!", "system", "reset", "quit"] {
            assert!(HELP.contains(&format!("/{name}")), "{name}");
        }
    }
}
