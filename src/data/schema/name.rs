//! The names of the schemas.

use crate::error::nearest;

macro_rules! schemas {
    ($($variant:ident $name:literal [$($alias:literal),*] $doc:literal,)*) => {
        /// The schema of a row: which columns it has and what they mean. The table of all columns is in the
        /// documentation ("Data formats").
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Schema { $(#[doc = $doc] $variant,)* }

        impl Schema {
            /// Every schema, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the name, as `data.format` takes it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns other names of data sets with this schema. `data.format` takes them too.
            pub fn aliases(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($alias),*],)* }
            }
        }
    };
}

schemas! {
    Preference "preference" [] "TRL's pairs with an explicit prompt: strings or conversations.",
    TriplePreference "triple-preference" ["tpo"] "TRL's pairs with a third, gold answer in `reference`.",
    ImplicitPrompt "implicit-prompt" ["dpo-mix-7k"] "TRL's pairs whose prompt is the common beginning of both answers.",
    Unpaired "unpaired-preference" ["kto"] "TRL's judged answers for KTO.",
    Ranked "ranked" [] "A prompt and answers from the best to the worst.",
    PromptCompletion "prompt-completion" [] "TRL's texts to imitate after a prompt.",
    Messages "messages" [] "A conversation to imitate; with a boolean label, its last turn is judged.",
    Text "text" [] "A text to imitate.",
    UltrafeedbackBinarized "ultrafeedback-binarized" ["tulu-3-preference", "smoltalk2-preference"]
        "The question as a string beside two whole conversations.",
    Capybara "capybara-dpo" [] "Two whole conversations beside the original one.",
    UltrafeedbackArgilla "ultrafeedback-argilla" [] "A question, `chosen_response` and `rejected_response`.",
    Ultrafeedback "ultrafeedback" [] "openbmb's instruction with completions and their scores.",
    OrcaDpoPairs "orca-dpo-pairs" ["chatml.intel"] "A system prompt, a question and two answers.",
    Distilabel "distilabel" ["chatml.icr"] "A system prompt, an input and two answers.",
    DistilabelRatings "distilabel-ratings" [] "An instruction with generations and their ratings.",
    SystemPrompt "system-prompt" ["chatml.prompt_pairs"] "A system prompt, a prompt and two answers.",
    HhRlhf "hh-rlhf" ["hh"] "Two transcripts of Human and Assistant.",
    Shp "shp" [] "Stanford's Human Preferences.",
    Nectar "nectar" [] "A prompt with answers and their ranks.",
    RankedScores "ranked-scores" [] "A prompt with completions and their ranks or scores.",
    HelpSteer2 "helpsteer2-preference" ["helpsteer2"] "Two responses with a strength of preference.",
    HelpSteer3 "helpsteer3-preference" ["helpsteer3"] "A conversation, two responses and their overall preference.",
    PkuSafeRlhf "pku-saferlhf" [] "Two responses and the index of the better one.",
    Votes "votes" [] "Two responses with the votes for each.",
    Arena "chatbot-arena" ["lmsys-arena"] "Two conversations and the winner.",
    StackExchangePaired "stack-exchange-paired" [] "A question and two answers, the better one first.",
    StackExchangePreferences "stack-exchange-preferences" ["se"] "A question with answers and their scores.",
    SummarizeFeedback "summarize-from-feedback" [] "A post, two summaries and the choice.",
    AlpacaRanking "alpaca-ranking" [] "LLaMA-Factory's instruction and input with two answers.",
    Alpaca "alpaca" [] "An instruction, an input and the output; judged if there is a boolean label.",
    SharegptRanking "sharegpt-ranking" [] "LLaMA-Factory's conversations with two answers.",
    Sharegpt "sharegpt" [] "Conversations of from and value; judged if there is a boolean label.",
    MessagesRanking "messages-ranking" [] "The messages of the prompt with two answers.",
    Swift "swift-dpo" [] "A conversation that ends with the chosen answer, and the rejected response.",
    OpenAi "openai-preference" ["openai"] "OpenAI's input with preferred and non-preferred output.",
}

impl Schema {
    /// Finds a schema by its name or by one of its aliases.
    ///
    /// # Errors
    /// Returns a message that names the nearest schema, or all schemas.
    pub fn parse(name: &str) -> Result<Self, String> {
        let names = || {
            Self::ALL
                .iter()
                .flat_map(|schema| std::iter::once(schema.name()).chain(schema.aliases().iter().copied()))
        };
        let is = |schema: &&Self| schema.name() == name || schema.aliases().contains(&name);
        Self::ALL.iter().find(is).copied().ok_or_else(|| match nearest(name, names()) {
            Some(near) => format!("`{name}` is no known format; did you mean `{near}`?"),
            None => {
                let all: Vec<_> = Self::ALL.iter().map(|schema| schema.name()).collect();
                format!("`{name}` is no known format; the formats are mixed and {}", all.join(", "))
            }
        })
    }

    /// Whether this is one of the forms that the documentation recommends, rather than that of a data set or of another
    /// program.
    pub fn is_native(self) -> bool {
        self.mixes() || self == Schema::ImplicitPrompt
    }

    /// Whether the rows of a file may mix this schema with others. These schemas name everything in columns of their own,
    /// so a missing column is an error and never another schema.
    pub fn mixes(self) -> bool {
        use Schema::{Messages, Preference, PromptCompletion, Ranked, Text, TriplePreference, Unpaired};
        matches!(self, Preference | TriplePreference | Unpaired | Ranked | PromptCompletion | Messages | Text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let mut seen = BTreeSet::new();
        for schema in Schema::ALL {
            for name in std::iter::once(schema.name()).chain(schema.aliases().iter().copied()) {
                assert!(seen.insert(name), "{name}");
                assert_eq!(Schema::parse(name), Ok(*schema));
            }
        }
        assert!(Schema::parse("hh-rlfh").unwrap_err().contains("did you mean `hh-rlhf`?"));
        assert!(Schema::parse("zzzzzzzzz").unwrap_err().contains("mixed and preference, triple-preference"));
    }
}
