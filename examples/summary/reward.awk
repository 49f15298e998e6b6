# The rule of this corpus: a good summary judges as the review does on the whole, says several things, and is short. JSON lines
# with a prompt and a completion in, one reward per line out: +1 for each different judging word of the side that the review
# takes with most of its judging words, -1 for each of the other side, and -0.25 for each word beyond twelve.
#
#     awk -f words.awk -f reward.awk
{
    split($0, parts, /","completion":"/)
    side = (judged(parts[1]) >= 0) ? 1 : -1
    reward = side * judged(parts[2])
    if (count > 12) reward -= 0.25 * (count - 12)
    print reward
}

# The different good words of a JSON text minus its different bad ones; leaves the number of all words in `count`.
function judged(text,    list, told, i, sum) {
    gsub(/\\n/, " ", text)
    text = tolower(text)
    gsub(/[^a-z']+/, " ", text)
    count = split(text, list, " ")
    split("", told)
    sum = 0
    for (i = 1; i <= count; i++) {
        if (list[i] in told) continue
        told[list[i]] = 1
        sum += (("good", list[i]) in is_in) - (("bad", list[i]) in is_in)
    }
    return sum
}
