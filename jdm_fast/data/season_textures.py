"""The textures of FlightGear that show the same ground in summer and in winter, and the digests of their files.

Of the 52 pairs in the package, those 34 are taken whose two pictures fit: at no shift does their brightness correlate
better than where they lie, and there by 0.45 or more. The others were painted anew for the winter.
"""

from __future__ import annotations

from pathlib import Path

#: sha256 of the files, two by two: a texture in summer, and the same in winter.
SHA256 = {
    "Terrain/18th_century_city.png": "c70e43e1bff41ec7f1eb6abb29ebbdd0d2e98d09e0fa2572e9db236a7aad5c7f",
    "Terrain.winter/18th_century_city-winter.png": "af0e6dbefc4977481f1d203966e91dcb7ca0592dc053fe0c444a678c99dfe10a",
    "Terrain/Town1.png": "2a3962227e0ed23979f8b04ab8dba3c28a0872cf729b89c5ebe3eef573803b62",
    "Terrain.winter/Town1.png": "4b62c73394672c405b0ea2f0805bf00de65910b6a399d93f6e961ac0a3a1c3fa",
    "Terrain/countryside1.green.png": "96e9d9224ef211c1eeaa267654d7056657fb14f9fcddb0b9e8246fbd4e715e4f",
    "Terrain.winter/countryside1.winter.png": "650a039bf0ab12c25257c8052f083fbd40767eb840b1cb4df65aef8fc4b37463",
    "Terrain/countryside2.green.png": "69f14a183e07434de77e454da3b241fcd91a4ccdf8696ae520b9f1a6ba743629",
    "Terrain.winter/countryside2.winter.png": "17e3cd51c83512e27b938e07fd49aa4fe2fd5867f60d1c45c2dfbe1a5bab4850",
    "Terrain/countryside3.green.png": "8f2783c8e15d0042c7644d33c9df2fa306d636f552f6c046993786af5bf894d7",
    "Terrain.winter/countryside3.winter.png": "babd6278705914069cd6c7b13e7f48c5d8f38205dec9e992c4c1a51d81733d35",
    "Terrain/countryside4.green.png": "76282977073f8d0915b78ddcf4af2a73472c9b96e28b6917480d62226727a2c8",
    "Terrain.winter/countryside4.winter.png": "826dda10d110ee44f7d1d4cf1e122491cf244d24ee6690d48e2271eb7741874e",
    "Terrain/cropgrass1.png": "c1342338f244468d11b9c21a5a9d8640ca7f109fbd1527d5a7af0b9d1b134be0",
    "Terrain.winter/cropgrass1.png": "208c8daa3d83115d11a7fab1ded4877aa7696f4b59d998c297eabb6835f4861e",
    "Terrain/cropgrass2.png": "4f6f7d7a0be256bf78db5c10a46795441dc89a972b3243184de0a52fc4de89d8",
    "Terrain.winter/cropgrass2.png": "39e4ce5afd7a982ad49fa473bfe8c7f4cf9844d930bfd255ec791b6ca2ba4267",
    "Terrain/cropgrass3.png": "5f7d9687da60905c0b570731639392776988e8bd818f533e4d4696021f7d1e8c",
    "Terrain.winter/cropgrass3.png": "387559477e5f1216fa0e28149d497aea4f1e5b7f5ea1de6fda9e9a32a741720c",
    "Terrain/cropwood.png": "2b29229b290a6da0e944a05ff535d58ecf399b30540cf41e97b48d7458e46821",
    "Terrain.winter/cropwood.png": "d415c86239f60c4e177ab3a05646fc807e7e57ef96bb72650014ddac6f5ec2b6",
    "Terrain/dec_evergreen.png": "c310828c967e254ef14054602e4412e535ab7ea7fa8bf834f739e9ee0daa4f7c",
    "Terrain.winter/dec_evergreen.png": "70d8c57eb638f1d0464258a57dcbe98e1d70f7b2685a154691ca2b2c36c0e62f",
    "Terrain/deciduous1.png": "e7b563a75df41c3b3faac0773804ca9b8a84e216cb22864d66001b977e23aafd",
    "Terrain.winter/deciduous1.png": "321b09ee5b9b8051d2d0fea44fe871208767441b47da19f98d88622afe596d0f",
    "Terrain/deciduous2.png": "832c85e07c649cee80282b0f550481492a621ffb28860ee688577b85a8640e27",
    "Terrain.winter/deciduous2.png": "b6f1b1a2b448f99ac7f9614773e49b1564422972abdb9b81a2e1f70124296f46",
    "Terrain/drycrop1.png": "da450a2e5bce4bba033988d07a0ffdd1fe695dc5f67df7cff5668c8c8281ea0d",
    "Terrain.winter/drycrop1.png": "127f331eef641d8c8b98f4a3dcc488a921e266fe9bb8dc6fbab71ec9fd35cb49",
    "Terrain/drycrop2.png": "ae96e0c15011186f44723bb981dba9e5a1998bddacf332650bce6e21a0f2b80c",
    "Terrain.winter/drycrop2.png": "f6c6736a26863e754496540f8ffddabf126fddcf5a69905662b8ec9e285e1f1d",
    "Terrain/drycrop3.png": "2a1a43af12a5fb3c933ad1e5d493b977c75f148b8ad58a7bd44a03ade3420ae3",
    "Terrain.winter/drycrop3.png": "837cffa3cb693229904a2189f55cdc6e0c8e5c47379713c09245b04f3e5ddd12",
    "Terrain/drycrop4.png": "3d21568ae58d029a22496433e41c71ba049e66e8a258b89bec22a798797949e8",
    "Terrain.winter/drycrop4.png": "13775a2adbc3c59bcec5de9bcfa28354d0500e46aeb3f588653fdcc48114d989",
    "Terrain/evergreen.png": "6b106634904c83674ee47aef260f7e6bc5297bf58940be79fea47a2c1edcfd69",
    "Terrain.winter/evergreen.png": "3217eed3ae06461d0ab32472e7ec8a38c7ce1ba9ee6fa148c548d01ca1419ed4",
    "Terrain/golfcourse1.png": "35d226a57f66a1189ae121310adb8856a7195405189840a9dde4701da6feed5d",
    "Terrain.winter/golfcourse1.png": "b66f4bd8b540b9f827ce5cc7099ad0cf44eef829f32981c4c4a6aac5926c59b9",
    "Terrain/herbtundra.png": "5d6d86257eccd35989d829beea591bbf9bbdf8350d2e2dcecd849d233af0406b",
    "Terrain.winter/herbtundra.png": "d3701111f00c73781b45d642f9d9eccbeb46877512dc8e1ddaaf6fa4b658f7f1",
    "Terrain/herbtundra3.png": "461a2ef34089cea95876e3b185157c3d5661c01c0bed42094b7ce9bae3fcd58a",
    "Terrain.winter/herbtundra3.png": "de3e9933a9597dd7ba8661e8a8ef36e42d626f4abd666a9c16a837184c7e0f27",
    "Terrain/industrial.png": "5b71f42545abf5dd01286cdeac8c5ae932f59627a764892c53860ea549225d42",
    "Terrain.winter/industrial-winter.png": "e36656319473caa8c2c4ee8b96f31e17d84bc5736e0f9523e702e40bd38ce531",
    "Terrain/irrcrop1.png": "17ac3bd8228c1a38790b363e0c798b8fa9be754c61cbdd2efc1ee0c1775475d8",
    "Terrain.winter/irrcrop1.png": "86209070bffd3316d77060093af678ac655453a756b694cb413c05b75517968c",
    "Terrain/irrcrop2.png": "fdf576c7ded0da31683848a9315d0bb864f46cb7c82a44b24b2e445d00f7e7d7",
    "Terrain.winter/irrcrop2.png": "ceec8cf39de975e6d6b79b51f9627528ba0dd4eefe16212776f82f20e949bc16",
    "Terrain/irrcrop3.png": "83c40f9e5082e5cdf27016b6badaba07e5bee29dd82d5a8577a5609410542541",
    "Terrain.winter/irrcrop3.png": "fa188722d898d01c92ec09f22df49c3439f8adba3d1497d566b0c461e72ac166",
    "Terrain/marsh3.png": "2d543c101c7d40be356d52e472d400a1073156ed1cd456ff95a54daeb54f58ea",
    "Terrain.winter/marsh3.png": "7081fcea0198da1677b5f4974e8e1250421c2ac08279f67dc2c376c86b8cc594",
    "Terrain/marsh4.png": "9d65fc0473401ee2278bd189302b9725c3c300a9f3749cb902465a1c6cf6482e",
    "Terrain.winter/marsh4.png": "ec960f618e01b6766238c962c7aa745909010e7f5fbe3b244a04f671ce571c70",
    "Terrain/mixedcrop4.png": "416ef332c9e04c6670470b1b39f024b41b492883c9219f5fc16a8b760259f45d",
    "Terrain.winter/mixedcrop4.png": "4363318df4ed4fb0b0306bac0f78781df23ec2b4be4f762c8e2906570108c7d5",
    "Terrain/mixedforest2.png": "915dd756b2b783baa5d890871fdef0286cdb9e67bfd36053983ee8b21c760c5f",
    "Terrain.winter/mixedforest2.png": "bf754971e2655ab84f02fb522073be1132f9347ccd32373c0ef5c0d99347877b",
    "Terrain/shrub.png": "24a9093691a9c1ac91f07f0e9c5bd3c68311650e53a1ebdc37e2d9967f6972a9",
    "Terrain.winter/shrub.png": "49431c4e440bef0300a21c952c716c6032b26d2c0573803b89d118153a72d6ee",
    "Terrain/shrub3.png": "9011a8eff3f0ded704dfd2a71bf7bb40a84a06dd768988dac8879886afce0fb4",
    "Terrain.winter/shrub3.png": "e6d16380168524b49dbe18c8a6e3019e36a3fdeb08e63c181f4dd662f3189724",
    "Terrain/transport.png": "d94fef2e794c95eca6465ec18939e87bcda7b8293e1ded87390b0fddfa66d317",
    "Terrain.winter/transport-winter.png": "2711be51750e5179bfaab721485ea39f70d4e6987c25c1885235afe6fb5137a2",
    "Terrain/tundra2.png": "cd34e5c67187c55ddf997aab0886f66f190db5403686ce625ad0b4b2d7fed250",
    "Terrain.winter/tundra2.png": "88c2f2f8881e0dfad0ed37d8fce8fe677f1e3b876703f521a1df46ce6d4d410b",
    "Terrain/tundra3.png": "ee479f614726f52a96f407c4fc4628f05abb4c45e5d52bf55660288cf0af150f",
    "Terrain.winter/tundra3.png": "b7eb3731abd9c97c65161e8f9a5dea946868fd0c615f2b7ee563d0e0bb6a2384",
}

_FILES = list(SHA256)

#: The two files of each texture, by its name.
TEXTURES = {
    Path(summer).stem.removesuffix(".green"): (summer, winter)
    for summer, winter in zip(_FILES[::2], _FILES[1::2], strict=True)
}
