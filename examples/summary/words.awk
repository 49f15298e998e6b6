# Written by make.py.
function words(name, text,    parts, n, i) {
    n = split(text, parts, " ")
    for (i = 1; i <= n; i++) is_in[name, parts[i]] = 1
}
BEGIN {
    words("good", "beautiful believable brilliant brisk careful charming clever colourful confident crisp detailed elegant exciting fresh funny gorgeous graceful gripping haunting hilarious honest interesting lively lovable lovely memorable moving natural original perfect powerful precise relaxed satisfying seamless sharp smooth stunning superb surprising touching vivid warm witty")
    words("bad", "annoying awkward bland bored careless cheap choppy clumsy crude disappointing dreary dull empty fake flat forced forgettable hollow irritating lazy lifeless loud messy miscast muddled murky painful pointless predictable ridiculous shabby shallow shrill silly slow sluggish stale stiff tedious thin timid tired tiresome ugly uneven unfunny wooden")
}
