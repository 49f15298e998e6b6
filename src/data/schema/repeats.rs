//! Answers that begin with their prompt once more, as it is or behind the marks of a conversation, and answers that go on
//! with the user's next turn.

use super::super::content::Content;
use super::super::doubt::{About, Doubt};
use super::super::fields::shortened;
use super::super::messages::Message;

/// Words beside the messages of a conversation that is written as one text: speakers, marks and keys.
pub(super) const MARKS: [&str; 34] = [
    "user",
    "assistant",
    "system",
    "human",
    "model",
    "gpt",
    "bot",
    "tool",
    "im",
    "start",
    "end",
    "begin",
    "of",
    "text",
    "turn",
    "header",
    "id",
    "inst",
    "sys",
    "s",
    "bos",
    "eos",
    "eot",
    "question",
    "answer",
    "instruction",
    "response",
    "input",
    "output",
    "prompt",
    "role",
    "content",
    "from",
    "value",
];

/// What precedes the user's turns in transcripts.
const HUMAN: &str = "\n\nHuman:";

/// Whether `answer` begins with the whole prompt, apart from white space and marks around it: not with a longer word that
/// begins like it (`1` and `10`).
pub(super) fn repeats(prompt: &str, answer: &str) -> bool {
    let prompt = prompt.trim();
    let rest = match answer.trim_start().strip_prefix(prompt).filter(|_| !prompt.is_empty()) {
        Some(rest) => rest,
        None => match behind_marks(prompt, answer) {
            Some(rest) => rest,
            None => return false,
        },
    };
    let letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    !(letter(prompt.chars().last()) && letter(rest.chars().next()))
}

/// Returns what stands behind a prompt of several words, if only marks stand before it (`Human:`, `<|im_start|>user`).
fn behind_marks<'a>(prompt: &str, answer: &'a str) -> Option<&'a str> {
    if !is_long(prompt) {
        return None;
    }
    let (before, rest) = answer.split_once(prompt)?;
    let before = before.to_lowercase();
    let mut words = before.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).peekable();
    (words.peek().is_some() && words.all(|word| MARKS.contains(&word))).then_some(rest)
}

/// Whether a prompt has several words: an answer may quote a single one.
pub(super) fn is_long(prompt: &str) -> bool {
    prompt.trim().contains(char::is_whitespace)
}

/// Returns the doubts about answers of which not all repeat their prompt, or that go on with the user's turn.
pub(super) fn find(content: &Content) -> Vec<Doubt> {
    let (repeated, longer) = match content {
        Content::Text { prompt, answers } => {
            let repeated = answers.iter().find(|answer| is_long(prompt) && repeats(prompt, answer));
            let longer = answers.iter().find(|answer| prompt.contains(HUMAN) && answer.contains(HUMAN));
            (repeated.map(String::as_str), longer.map(String::as_str))
        }
        Content::Chat { prompt, answers, .. } => {
            (answers.iter().find_map(|turns| repeated_turn(prompt.last(), turns)), None)
        }
    };
    let repeated = repeated.map(|text| Doubt::new(About::Repeated, format!("{:?}", shortened(text))));
    let longer = longer.and_then(|text| text.find(HUMAN).map(|at| text[at..].trim()));
    let longer = longer.map(|text| Doubt::new(About::Turn, format!("{:?}", shortened(text))));
    repeated.into_iter().chain(longer).collect()
}

/// Returns the first message of the assistant that repeats the one before it.
fn repeated_turn<'a>(before: Option<&'a Message>, turns: &'a [Message]) -> Option<&'a str> {
    let all: Vec<&Message> = before.into_iter().chain(turns).collect();
    all.windows(2).find_map(|pair| match pair {
        [asked, said] if !asked.is_answer() && said.is_answer() => {
            let (asked, said) = (asked.content(), said.content());
            (is_long(asked) && repeats(asked, said)).then_some(said)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_prompt_is_found_behind_marks() {
        let prompt = "Which river?";
        for answer in [
            "Which river? The Loire.",
            "\n\nHuman: Which river?\n\nAssistant: The Loire.",
            "<|im_start|>user\nWhich river?<|im_end|>\n<|im_start|>assistant\nThe Loire.",
            "### Question: Which river?\n### Answer: The Loire.",
            "User: Which river?\nAssistant: The Loire.",
        ] {
            assert!(repeats(prompt, answer), "{answer}");
        }
        for answer in ["The Loire.", "You ask: Which river? The Loire.", "Which", "User: the Loire."] {
            assert!(!repeats(prompt, answer), "{answer}");
        }
        assert!(
            repeats("1", "1 + 1") && !repeats("1", "10") && !repeats("1", "Human: 1") && !repeats("", "a")
        );
    }

    #[test]
    fn one_answer_that_repeats_and_one_that_goes_on_are_doubts() {
        let of = |prompt: &str, answers: [&str; 2]| {
            let answers = answers.map(String::from).into();
            let found = find(&Content::Text { prompt: prompt.into(), answers });
            found.into_iter().map(|doubt| doubt.about).collect::<Vec<_>>()
        };
        assert_eq!(of("Q one?", ["Q one? good", "bad"]), [About::Repeated]);
        assert_eq!(of("Q one?", ["good", "bad"]), []);
        let prompt = "\n\nHuman: Q\n\nAssistant:";
        assert_eq!(of(prompt, [" good", " bad\n\nHuman: thx"]), [About::Turn]);
        let user = Message::new("user", "Q one?");
        let said = |text: &str| vec![user.clone(), Message::new("assistant", text)];
        let chat = |text: &str| Content::Chat {
            prompt: Vec::new(),
            answers: vec![said(text)],
            tools: None,
            kwargs: None,
        };
        assert_eq!(find(&chat("User: Q one?\nAssistant: good")).len(), 1);
        assert_eq!(find(&chat("good")).len(), 0);
    }
}
