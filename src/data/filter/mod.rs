//! `data.filter`: a condition over the columns of a row, such as `chosen_score - rejected_score >= 1 and lang == "en"`.
//!
//! | form | meaning |
//! |---|---|
//! | `3`, `2.5e-1`, `"text"`, `'text'`, `true`, `false`, `null` | values |
//! | `name`, `meta.score`, `answers.0.rank`, `` `a name` `` | a column, a field of it, an entry of a list |
//! | `+ - * /` | arithmetic; `+` also joins texts |
//! | `== != < <= > >=` | comparisons of two numbers or two texts; `==` and `!=` also of booleans and `null` |
//! | `and`, `or`, `not`, `( )` | conditions; the second one is not evaluated if the first decides |
//! | `len(x)` | characters of a text, entries of a list |
//! | `abs(x)`, `min(x)`, `max(x)` | of a number; of the numbers in a list (`max(completions.overall_score)`) |
//! | `has(x)` | whether the column exists and is not `null` |
//!
//! A missing column and a value of the wrong type are errors, never false. Nesting and length are bounded.

mod ast;
mod eval;
mod lexer;
mod parser;

use serde_json::Value as Json;

use super::fields::{Fields, described};
use ast::Expr;

/// A parsed condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Expr);

impl Filter {
    /// Parses a condition.
    ///
    /// # Errors
    /// Returns a message with the column (in characters) and what is expected there.
    pub fn parse(text: &str) -> Result<Self, String> {
        parser::parse(text).map(Self)
    }

    /// Whether the condition reads the column `name`.
    pub(super) fn reads(&self, name: &str) -> bool {
        self.0.reads(name)
    }

    /// Whether the row of these `fields` meets the condition.
    ///
    /// # Errors
    /// Returns a message if a column is missing, if a value has the wrong type, or if the result is no boolean.
    pub(super) fn keeps(&self, fields: &Fields) -> Result<bool, String> {
        match eval::value(&self.0, fields)? {
            Json::Bool(keeps) => Ok(keeps),
            other => Err(format!(
                "data.filter gives {}; a condition is true or false, such as score >= 1",
                described(&other)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keeps(filter: &str) -> Result<bool, String> {
        let row = json!({
            "a": 3, "b": 2.5, "s": "été", "t": "x y", "n": null, "yes": true, "list": [1, 4, 2], "a name": 7,
            "meta": {"score": 9, "tags": ["p", "q"]}, "rows": [{"v": 5}, {"v": 6}],
        });
        let Json::Object(fields) = row else { panic!("an object") };
        Filter::parse(filter)?.keeps(&fields)
    }

    #[test]
    fn conditions_hold_or_do_not() {
        for filter in [
            "a - b >= 0.5",
            "a + 2 * b == 8",
            "(a + 2) * b == 12.5",
            "-a < 0 and not (a < b)",
            "10 - 3 - 2 == 5",
            "8 / 2 / 2 == 2",
            "s == 'été' and len(s) == 3",
            "t + \"!\" == \"x y!\"",
            "s != t",
            "s > t",
            "n == null and a != null",
            "yes",
            "yes == true",
            "not false or nowhere == 3",
            "len(list) == 3 and max(list) == 4 and min(list) == 1",
            "max(rows.v) > min(rows.v)",
            "meta.score == 9 and meta.tags.1 == \"q\"",
            "`a name` == 7",
            "has(a) and not has(n) and not has(zzz) and not has(meta.zzz)",
            "abs(b - a) <= 0.5",
            "'it\\'s' == \"it's\"",
            "1e2 == 100",
        ] {
            assert_eq!(keeps(filter), Ok(true), "{filter}");
            assert_eq!(keeps(&format!("not ({filter})")), Ok(false), "{filter}");
        }
    }

    #[test]
    fn wrong_types_and_missing_columns_are_errors() {
        for (filter, part) in [
            ("zzz > 1", "no column `zzz`; the row has `a`, `b`"),
            ("meta.zzz > 1", "no column `meta.zzz`"),
            ("false or zzz", "no column `zzz`"),
            ("a > s", "> compares two numbers or two texts, found a number (3) and a string (\"été\")"),
            ("n > 1", "found null and a number (1)"),
            ("yes > false", "> compares two numbers or two texts"),
            ("a == s", "== compares values of one type"),
            ("a - s == 1", "- needs numbers, found a number (3) and a string"),
            ("a + s == 1", "+ needs two numbers or two texts"),
            ("-s == 1", "- needs a number, found a string"),
            ("not a", "not needs a condition, found a number (3)"),
            ("yes and a", "and needs conditions, found a number (3)"),
            ("a or yes", "or needs conditions, found a number (3)"),
            ("a / 0 == 1", "a number that is not finite"),
            ("a", "data.filter gives a number (3)"),
            ("len(a) == 1", "len needs a text or a list, found a number (3)"),
            ("max(s) == 1", "max needs a list of numbers"),
            ("max(meta.tags) == 1", "max needs a list of numbers"),
            ("abs(s) == 1", "abs needs a number"),
            ("list == 1", "== compares values of one type"),
        ] {
            let error = keeps(filter).unwrap_err();
            assert!(error.contains(part), "{filter}: {error}");
        }
    }

    #[test]
    fn what_is_no_condition_names_the_column() {
        let deep = "(".repeat(200) + "a" + &")".repeat(200);
        let nots = "not ".repeat(500) + "yes";
        let minus = "-".repeat(500) + "1 == 1";
        let long = "a + ".repeat(5000) + "a == 1";
        for (filter, part) in [
            ("", "is empty"),
            ("  ", "is empty"),
            ("a >", "at its end: expected a value"),
            ("a > > 1", "at column 5: expected a value, found `>`"),
            ("a > 1 b", "at column 7: expected an operator, found `b`"),
            ("(a > 1", "at its end: expected `)`"),
            ("a > 1)", "at column 6: expected an operator, found `)`"),
            ("a = 1", "at column 3: `=` is no operator; use =="),
            ("a && b", "at column 3: `&` is no operator; use and"),
            ("a || b", "use or"),
            ("!a", "use not"),
            ("a # b", "at column 3: unexpected `#`"),
            ("\"abc", "at column 1: the text has no end"),
            ("1.2.3 == 1", "at column 1: `1.2.3` is no number"),
            ("1x == 1", "is no number"),
            ("1 < 2 < 3", "at column 7: comparisons are not chained; join them with and"),
            ("sum(a) == 1", "at column 1: no function `sum`; there are abs, has, len, max, min"),
            ("len a == 1", "at column 5: expected an operator"),
            ("len(a == 1", "expected `)`"),
            ("has(1) == 1", "has needs the name of a column"),
            ("a. == 1", "expected a name behind `.`"),
            ("`a == 1", "the name has no end"),
            (deep.as_str(), "nested more than"),
            (nots.as_str(), "nested more than"),
            (minus.as_str(), "nested more than"),
            (long.as_str(), "longer than"),
        ] {
            let error = keeps(filter).unwrap_err();
            assert!(error.contains(part), "{filter}: {error}");
        }
    }

    #[test]
    fn long_sums_are_no_deep_trees() {
        assert_eq!(keeps(&("1 + ".repeat(1000) + "1 == 1001")), Ok(true));
        assert_eq!(keeps(&("yes and ".repeat(800) + "yes")), Ok(true));
    }
}
