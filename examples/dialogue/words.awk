# Written by make.py.
function words(name, text,    parts, n, i) {
    n = split(text, parts, " ")
    for (i = 1; i <= n; i++) is_in[name, parts[i]] = 1
}
BEGIN {
    words("judging", "annoying awkward beautiful believable bland bored brilliant brisk careful careless charming cheap choppy clever clumsy colourful confident crisp crude detailed disappointing dreary dull elegant empty exciting fake flat forced forgettable fresh funny gorgeous graceful gripping haunting hilarious hollow honest interesting irritating lazy lifeless lively loud lovable lovely memorable messy miscast moving muddled murky natural original painful perfect pointless powerful precise predictable relaxed ridiculous satisfying seamless shabby shallow sharp shrill silly slow sluggish smooth stale stiff stunning superb surprising tedious thin timid tired tiresome touching ugly uneven unfunny vivid warm witty wooden")
    words("noun", "actors cast characters costumes dialogue direction editing ending humour images jokes music pacing photography plot script sets songs")
    words("rude", "fool stupid")
    words("evasive", "ask not")
}
