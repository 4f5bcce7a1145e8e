# ruff: noqa: RUF001 - words of languages whose letters look like Latin ones
"""Words that stand in people's names in address books, but mean something else in a text.

Owns: these words, in the languages of most chats, in lower case. Does not know how names are masked (`redaction.py`).
"""

FUNCTION_WORDS = (
    "i me you we self human bot ai agent customer client guest patient doctor unknown anonymous speaker user users "
    "assistant system member someone somebody nobody everyone everybody anyone "
    # English
    "the this that these those and but for nor yet with without from into onto over under about after before between "
    "not all any some every each both either neither one two three our your his her its their ours yours hers "
    "theirs who whom whose what which when where why how she him they them are was were been has had have does did "
    "could should might must would there here just only also very too now then yes off out again never always "
    # German
    "der die dem ein eine einen einem einer mein meine meinen meinem meiner dein deine deinen seine ihr ihre "
    "unser unsere euer eure und oder aber nicht kein keine ohne von vom zum zur für auf aus bis nach über unter "
    "vor ich wir sie ihn ihm uns euch mich dich sich wer wie ist sind auch noch "
    # French
    "mon mes ses notre votre vos leur leurs aux pour avec sans dans par sur sous chez qui que est mais pas moi "
    "toi nous vous elles ils cette ces tout tous toute toutes une très plus "
    # Spanish, Portuguese, Italian
    "los las unos unas por para sin sobre entre hasta desde muy más pero como quien cuando donde mis tus sus "
    "nuestro nuestra ellos nosotros usted ustedes este esta estos estas ese esto eso todo toda todos todas "
    "umas dos nas pelo pela com meu minha meus minhas teu tua seu sua nosso nossa ele eles elas você vocês esse "
    "essa não muito quem gli uno della dello dei delle degli nella sul sulla mio miei mie tuo tuoi suo suoi "
    "nostro nostri vostro loro questo questa come quando dove non più molto "
    # Dutch and Scandinavian
    "het een met voor naar door onder zonder mijn jouw zijn haar onze ons deze dit dat niet geen wij jij zij hij ook "
    "maar och det ett ditt vår våra med från inte ikke jeg vores "
    # Slavic, Turkish, Indonesian, Greek
    "mój moja moje twój twoja nasz nasza jest nie dla bez pod nad przy jak czy ten мой моя моё мое мои твой твоя наш "
    "наша ваш ваша это этот эта для без под над при как что кто где его они она оно все всё тот мій моє твій benim "
    "senin bizim için ile bir untuk dari dengan kamu ini itu του της των τον την στο στη και "
    "για από μου σου μας σας "
    # scripts without capitals
    "우리 너희 저희 당신 그녀 그들 나의 너의 저의 제가 내가 우리의 여기 거기 我们 你们 他们 她们 我的 你的 他的 她的 "
    "这个 那个 大家 自己 我們 你們 他們 她們 這個 わたし わたしの 私の 私達 僕の ぼく おれ 俺の あなた みんな これ "
    "それ あれ この その あの うち うちの ของ และ ฉัน ผม เธอ เรา คุณ เขา ที่ هذا هذه التي الذي على إلى أنا انا أنت "
    "انت نحن این برای שלך שלו שלה שלנו אני אתה הוא היא אנחנו मेरा मेरी मेरे हमारा हमारी हमारे तेरा तेरी आपका आपकी"
)
"""Words that name nobody: pronouns, articles and the like, and what programs call speakers."""

ORDINARY_WORDS = (
    # English: titles, relatives, occupations, places, qualities
    "sir miss mister missus lord dame madam prof professor doc reverend pastor captain coach chief boss teacher "
    "trainer tutor landlord landlady neighbor neighbour roommate flatmate colleague manager driver plumber "
    "electrician mechanic dentist nurse lawyer barber cleaner nanny babysitter mom mommy mum mummy mama mamma dad "
    "daddy papa father mother brother sister bro sis cousin uncle aunt auntie aunty grandma grandpa grandmother "
    "grandfather granny gran grandad granddad daughter wife wifey husband hubby fiance family friend bestie "
    "dude guys girl girls boy boys kid kids babe lover darling sweetie sweetheart sweet dear dearest big little "
    "small tiny mini old new tall short fat good best great super real true crazy mad wild funny lazy sleepy "
    "cute pretty beautiful cool hot cold bad evil red blue black white green pink golden silver dark light "
    "first second third last next work office home house school class college uni university team group club band "
    "church gym yoga pizza taxi uber bank hotel shop store market company city street room flat phone mobile cell "
    "number spare test admin administrator moderator support service services info news help sales delivery deleted "
    "account message facebook instagram messenger telegram whatsapp discord slack monday tuesday wednesday thursday "
    "saturday january february march july september october november december spring "
    # other languages: titles and relatives
    "herr frau fräulein onkel tante oma opa mutti mutter vati vater bruder schwester schwager chef chefin nachbar "
    "nachbarin schatz schatzi liebling liebe lieber monsieur madame mademoiselle maman tonton tata mamie papi frère "
    "sœur soeur patron chéri chérie amour bébé señor señora señorita tío tía mamá papá abuela abuelo hermano hermana "
    "jefe jefa vecino vecina signor signora signorina zio papà nonna nonno fratello sorella capo amore "
    "senhor senhora tio mãe pai avó avô irmão irmã chefe meneer mevrouw oom baas schatje buurman buurvrouw moeder "
    "vader broer zus far farfar farmor mormor morfar teyze amca dayı kardeş hoca hocam aşkım canım hanım "
    "pani ciocia wujek babcia dziadek szef мама папа мамочка бабушка дедушка баба дед тётя тетя дядя брат сестра шеф "
    "любимый любимая господин госпожа ibu bapak pak mas mbak kak adik μαμά μπαμπάς γιαγιά παππούς "
    # scripts without capitals: nothing tells the word from the name
    "엄마 아빠 어머니 아버지 오빠 언니 누나 형님 동생 이모 고모 삼촌 할머니 할아버지 선생님 사장님 부장님 팀장님 여보 "
    "자기 남편 아내 친구 妈妈 爸爸 媽媽 老公 老婆 哥哥 姐姐 弟弟 妹妹 爷爷 奶奶 爺爺 老师 老師 老板 老闆 经理 經理 "
    "お母さん お父さん 母さん 父さん ママ パパ 先生 社長 店長 部長 課長 お兄ちゃん お姉ちゃん おばあちゃん "
    "おじいちゃん แม่ พ่อ พี่ น้อง ครู ماما بابا حبيبي حبيبتي أستاذ استاذ دكتور الحاج أبو ابو ابن بنت عبد آقای خانم "
    "אמא אבא סבא סבתא पापा मम्मी भैया दीदी चाचा मामा श्री श्रीमती डॉक्टर"
)
"""Words that name a relation, an occupation or a quality, not a person: no first names."""

NAMES_AND_WORDS = (
    "angel april art august autumn bill bob chase christian dawn dean drew faith frank gene grace grant guy hope iris "
    "ivy jack june joy lily mark max may melody miles norm olive pat penny ray rich rob rose ruby sandy sky skip star "
    "sue summer violet ward will "
    # of other languages
    "can nur mine till sem nel esa aku uma das yang bei elle del mitt som hon saya kami kita sein tes lui tra "
    "sunday friday winter buddy happy lovely zia abla amor baba queen "
    "abi ale ama baby bey che chi con den des dina don ella fra hala hans honey hun jag king lady les love lucky "
    "major mam mate mia mina mit mor nana nos ono pan per prince princess son tam tia ton una van young"
)
"""First names that are also words."""
