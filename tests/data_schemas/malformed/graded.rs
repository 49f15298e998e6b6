//! Grades and rankings.

use super::table;

#[test]
fn grades_and_rankings() {
    table(&[
        (
            r#"{"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": 4}"#,
            &["preference_strength must be a number from -3 (response_1 is better) to 3", "4"],
        ),
        (
            r#"{"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": "1"}"#,
            &["preference_strength must be a number"],
        ),
        (
            r#"{"prompt": "q<extra_id_1>Narrator\nx", "response_1": "a", "response_2": "b", "preference_strength": 1}"#,
            &["<extra_id_1> without \"User\" or \"Assistant\""],
        ),
        (
            r#"{"prompt": "q\n<extra_id_1>Assistant\n\n<extra_id_1>User\nr", "response_1": "a", "response_2": "b", "preference_strength": 1}"#,
            &["turn 2 of prompt is empty"],
        ),
        (
            r#"{"context": 3, "response1": "a", "response2": "b", "overall_preference": 1}"#,
            &["context must be a list of messages"],
        ),
        (
            r#"{"context": [@U], "response1": "a", "response2": "a", "overall_preference": 0}"#,
            &["response1 and response2 are equal"],
        ),
        (
            r#"{"prompt": "q", "response_a": "a", "response_b": "b", "wins_a": "3", "wins_b": 1}"#,
            &["wins_a must be a number of votes"],
        ),
        (
            r#"{"prompt": "q", "response_a": "a", "response_b": "b", "wins_a": 0, "wins_b": 0}"#,
            &["wins_a and wins_b have no votes"],
        ),
        (
            r#"{"prompt": "q", "response_a": "a", "response_b": "a", "wins_a": 1, "wins_b": 0}"#,
            &["response_a and response_b are equal"],
        ),
        (
            r#"{"instruction": "q", "completions": [{"response": "a", "overall_score": 3}, {"response": "b", "overall_score": 3}]}"#,
            &["all answers have the same score (3)", "data.filter"],
        ),
        (
            r#"{"instruction": "q", "completions": [{"response": "a", "overall_score": 3}]}"#,
            &["there are 1 answers"],
        ),
        (
            r#"{"instruction": "q", "completions": [{"response": "a", "overall_score": 3}, {"response": "b"}]}"#,
            &["completions[1] has no `overall_score` or `fine-grained_score`"],
        ),
        (
            r#"{"instruction": "q", "completions": [{"response": "a", "overall_score": "good"}, {"response": "b", "overall_score": 1}]}"#,
            &["completions[0].overall_score must be a number"],
        ),
        (
            r#"{"instruction": "q", "completions": [{"response": "a", "overall_score": 3}, "b"]}"#,
            &["completions[1] must be an object"],
        ),
        (
            r#"{"instruction": "q", "completions": [{"response": "a", "overall_score": 3}, {"overall_score": 1}]}"#,
            &["completions[1] has no `response`"],
        ),
        (
            r#"{"instruction": "q", "completions": [{"response": "a", "overall_score": 3}, {"response": "a", "overall_score": 1}]}"#,
            &["completions[0].response and completions[1].response are equal"],
        ),
        (
            r#"{"prompt": "q", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": null}]}"#,
            &["answers[1] has no `rank`"],
        ),
        (r#"{"prompt": "q", "answers": "a"}"#, &["answers must be a list of objects"]),
        (
            r#"{"question": "q", "answers": [{"text": "a", "pm_score": 1}, {"pm_score": 2}]}"#,
            &["answers[1] has no `text`"],
        ),
        (
            r#"{"question": "q", "answers": [{"text": "a", "pm_score": 1}, {"text": "b", "pm_score": 1}]}"#,
            &["same score (1)"],
        ),
        (
            r#"{"instruction": "q", "generations": ["a", "b"], "ratings": [1]}"#,
            &["generations has 2 entries and ratings has 1"],
        ),
        (
            r#"{"instruction": "q", "generations": ["a", "b"], "ratings": [1, null]}"#,
            &["ratings[1] must be a number, found null"],
        ),
        (
            r#"{"instruction": "q", "generations": ["a", null], "ratings": [1, 2]}"#,
            &["generations[1] must be a string, found null"],
        ),
        (r#"{"prompt": "q", "completions": ["a", "b"], "scores": [1, 1]}"#, &["same score (1)"]),
        (r#"{"prompt": "q", "completions": ["a", "b"], "ranks": {"a": 1}}"#, &["ranks must be a list"]),
        (
            r#"{"prompt": "q", "completions": ["a", "a"], "scores": [1, 2]}"#,
            &["completions[1] and completions[0] are equal"],
        ),
    ]);
}
