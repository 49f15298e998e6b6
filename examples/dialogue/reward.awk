# The rule of this corpus: a good answer speaks of what was asked, and of nothing else, judges it, is polite, and is short. JSON
# lines with a prompt and a completion in, one reward per line out: +2 for the noun of the last question, -1 for each other
# noun, +1 for each different judging word (two at most), +1 for a question in return, -2 for rudeness, -1 for avoiding the
# question, and -0.25 for each word beyond sixteen.
#
#     awk -f words.awk -f reward.awk
{
    split($0, parts, /","completion":"/)
    turns = split(parts[1], turn, /Human:/)
    n = split(plain(turn[turns]), question, " ")
    asked = ""
    for (i = 1; i <= n; i++) if (("noun", question[i]) in is_in) asked = question[i]
    m = split(plain(parts[2]), answer, " ")
    split("", told)
    reward = judged = rude = evasive = 0
    for (i = 1; i <= m; i++) {
        word = answer[i]
        if (word in told) continue
        told[word] = 1
        if (word == asked) reward += 2
        else if (("noun", word) in is_in) reward -= 1
        if (("judging", word) in is_in && judged < 2) judged++
        if (("rude", word) in is_in) rude = 1
        if (("evasive", word) in is_in) evasive = 1
    }
    reward += judged - 2 * rude - evasive
    if (parts[2] ~ /\?/) reward += 1
    if (m > 16) reward -= 0.25 * (m - 16)
    print reward
}

# The words of a JSON text, in lower case.
function plain(text) {
    gsub(/\\n/, " ", text)
    text = tolower(text)
    gsub(/[^a-z']+/, " ", text)
    return text
}
